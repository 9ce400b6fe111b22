// Package nodevolumelimits keeps Pods off nodes whose CSI drivers cannot attach as many volumes more as the Pod has.
package nodevolumelimits

import (
	"fmt"
	"maps"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule. Volumes of kinds that were in Kubernetes before CSI are not counted as those of the drivers that have
// taken their place.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "NodeVolumeLimits" }

const tooMany = "node(s) exceed max volume count"

// attachable is a volume as its driver knows it. One that several Pods use is attached once.
type attachable struct{ driver, handle string }

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	wanted := volumesOf(pod, cluster.Storage)
	if len(wanted) == 0 {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		on := cluster.CSI.Node(n.Node.Name)
		for _, v := range wanted {
			if missing(v.driver, on, cluster.CSI) {
				return []framework.Reason{{Verdict: framework.Busy, Message: fmt.Sprintf("%s CSI driver is not installed on the node", v.driver)}}
			}
		}
		limits := limitsOf(on)
		if len(limits) == 0 {
			return nil
		}
		attached := attachedTo(n, cluster)
		counts := map[string]int{}
		for v := range attached {
			counts[v.driver]++
		}
		for _, v := range wanted {
			if attached[v] {
				continue
			}
			counts[v.driver]++
			if limit, ok := limits[v.driver]; ok && counts[v.driver] > limit {
				return []framework.Reason{{Verdict: framework.Busy, Message: tooMany}}
			}
		}
		return nil
	}, framework.Reason{}
}

// volumesOf returns the volumes of the Pod's claims, each once, in order. One that is still to be made has the claim's name for
// a handle.
func volumesOf(pod *framework.Pod, storage *framework.Storage) []attachable {
	var out []attachable
	for _, c := range pod.Claims {
		claim := storage.Claim(c.NamespacedName)
		if claim == nil {
			continue // that is for another rule to say
		}
		v := attachable{handle: "\x00" + c.String()}
		if bound := storage.Volume(claim.Spec.VolumeName); bound == nil {
			if class := storage.Class(volume.GetPersistentVolumeClaimClass(claim)); class != nil {
				v.driver = class.Provisioner
			}
		} else if bound.Spec.CSI != nil {
			v = attachable{bound.Spec.CSI.Driver, bound.Spec.CSI.VolumeHandle}
		}
		if v.driver != "" && v.handle != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// attachedTo are the volumes of the Pods on the node, and those that are attached without a Pod.
func attachedTo(n *framework.Node, cluster *framework.Cluster) map[attachable]bool {
	out := map[attachable]bool{}
	for _, p := range n.Pods {
		for _, v := range volumesOf(p, cluster.Storage) {
			out[v] = true
		}
	}
	for _, a := range cluster.CSI.Attached(n.Node.Name) {
		if a.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		if v := cluster.Storage.Volume(*a.Spec.Source.PersistentVolumeName); v != nil && v.Spec.CSI != nil {
			out[attachable{a.Spec.Attacher, v.Spec.CSI.VolumeHandle}] = true
		}
	}
	return out
}

// missing says whether the driver asks to be on a node before its Pods are (preventPodSchedulingIfMissing), and is not.
func missing(driver string, on *storagev1.CSINode, csi *framework.CSI) bool {
	d := csi.Driver(driver)
	return d != nil && d.Spec.PreventPodSchedulingIfMissing != nil && *d.Spec.PreventPodSchedulingIfMissing && !installed(driver, on)
}

func installed(driver string, on *storagev1.CSINode) bool {
	return on != nil && slices.ContainsFunc(on.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
}

// limitsOf is how many volumes each driver on the node can attach, for those that say so.
func limitsOf(on *storagev1.CSINode) map[string]int {
	out := map[string]int{}
	if on == nil {
		return out
	}
	for _, d := range on.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			out[d.Name] = int(*d.Allocatable.Count)
		}
	}
	return out
}

// Helps implements framework.Waker: a Pod with claims left, a volume was detached, a node got drivers or room for volumes, a
// driver no longer insists on being there, or a claim of the Pod appeared.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.PodLeft():
		return len(framework.NewPod(e.OldPod).Claims) > 0
	case e.OldAttachment != nil && e.NewAttachment == nil:
		return true
	case e.NewCSINode != nil:
		return e.OldCSINode == nil || grew(e.OldCSINode, e.NewCSINode)
	case e.OldCSIDriver != nil || e.NewCSIDriver != nil:
		return e.OldCSIDriver != nil
	}
	return e.ClaimOf(pod) || e.NodeAppeared()
}

// grew says whether the node has a driver more, or one that can attach more.
func grew(old, new *storagev1.CSINode) bool {
	before, after := limitsOf(old), limitsOf(new)
	return slices.ContainsFunc(new.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return !installed(d.Name, old) }) ||
		slices.ContainsFunc(slices.Collect(maps.Keys(before)), func(name string) bool {
			limit, limited := after[name]
			return !limited || limit > before[name]
		})
}
