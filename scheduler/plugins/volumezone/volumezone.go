// Package volumezone keeps Pods on nodes in the zone and region that the labels of their volumes name.
package volumezone

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "VolumeZone" }

// topologies are the labels that bind a volume to a place, each with the older or newer label that says the same of a node.
var topologies = []struct{ label, twin string }{
	{corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone},
	{corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion},
	{corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone},
	{corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion},
}

// separator stands between the zones in the label of a volume that is in several.
const separator = "__"

// place is where a volume is: a node must have one of the values.
type place struct {
	label, twin string
	values      []string
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	var places []place
	for _, c := range pod.Claims {
		v, none := volumeOf(c, cluster.Storage)
		if none != "" {
			return nil, framework.Reason{Verdict: framework.Wrong, Message: none}
		}
		if v == nil {
			continue
		}
		for _, t := range topologies {
			if value, ok := v.Labels[t.label]; ok {
				places = append(places, place{t.label, t.twin, strings.Split(value, separator)})
			}
		}
	}
	if len(places) == 0 {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		for _, p := range places {
			value, ok := n.Node.Labels[p.label]
			if !ok {
				value, ok = n.Node.Labels[p.twin]
			}
			if !ok || !slices.Contains(p.values, value) {
				return []framework.Reason{{Verdict: framework.Wrong, Message: "node(s) had no available volume zone"}}
			}
		}
		return nil
	}, framework.Reason{}
}

// volumeOf returns the volume of a claim, nil where it will be chosen for the node, and otherwise why there is none.
func volumeOf(c framework.Claim, storage *framework.Storage) (v *corev1.PersistentVolume, none string) {
	claim := storage.Claim(c.NamespacedName)
	if claim == nil {
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", c.Name)
	}
	if claim.Spec.VolumeName != "" {
		if v = storage.Volume(claim.Spec.VolumeName); v == nil {
			return nil, fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName)
		}
		return v, ""
	}
	name := volume.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return nil, "PersistentVolumeClaim had no pv name and storageClass name"
	}
	class := storage.Class(name)
	switch {
	case class == nil:
		return nil, fmt.Sprintf("storageclass.storage.k8s.io %q not found", name)
	case class.VolumeBindingMode == nil:
		return nil, fmt.Sprintf("VolumeBindingMode not set for StorageClass %q", name)
	case *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer:
		return nil, ""
	}
	return nil, "PersistentVolume had no name"
}

// Helps implements framework.Waker: a claim of the Pod changed, a volume or a class appeared or changed, or a node has other
// labels.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	return e.ClaimOf(pod) || e.NewVolume != nil || e.NewClass != nil || e.NodeLabelsChanged()
}
