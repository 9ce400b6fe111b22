// Package volumebinding keeps Pods where the volumes of their claims are, and finds volumes for claims that wait for the
// node of their first Pod (volumeBindingMode WaitForFirstConsumer): one that is there and fits, or one to be provisioned.
package volumebinding

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
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
func (Plugin) Name() string { return "VolumeBinding" }

const (
	unboundImmediate = "pod has unbound immediate PersistentVolumeClaims"
	noVolume         = "node(s) didn't find available persistent volumes to bind"
	elsewhere        = "node(s) didn't match PersistentVolume's node affinity"
	noRoom           = "node(s) did not have enough free storage"
	volumeGone       = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
)

// claims are a Pod's, sorted by what is to be done.
type claims struct {
	bound, delayed []*corev1.PersistentVolumeClaim
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if len(pod.Claims) == 0 {
		return nil, framework.Reason{}
	}
	cs, none := claimsOf(pod, cluster.Storage)
	if none != "" {
		return nil, framework.Reason{Verdict: framework.Wrong, Message: none}
	}
	return func(n *framework.Node) []framework.Reason {
		var out []framework.Reason
		against := func(message string) { out = append(out, framework.Reason{Verdict: framework.Wrong, Message: message}) }
		for _, claim := range cs.bound {
			v := cluster.Storage.Volume(claim.Spec.VolumeName)
			if v == nil {
				against(volumeGone)
				break
			}
			if volume.CheckNodeAffinity(v, n.Node.Labels) != nil {
				against(elsewhere)
				break
			}
		}
		switch found, ok := find(cs.delayed, cluster.Storage, n.Node); {
		case !ok:
			against(noVolume)
		case !found.room(cluster, n.Node):
			against(noRoom)
		}
		return out
	}, framework.Reason{}
}

// claimsOf sorts the Pod's claims; none says why no node will do.
func claimsOf(pod *framework.Pod, storage *framework.Storage) (cs claims, none string) {
	immediate := false
	for _, c := range pod.Claims {
		claim := storage.Claim(c.NamespacedName)
		switch {
		case claim == nil && c.Ephemeral:
			return claims{}, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", c.Name)
		case claim == nil:
			return claims{}, fmt.Sprintf("persistentvolumeclaim %q not found", c.Name)
		case claim.Status.Phase == corev1.ClaimLost:
			return claims{}, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", c.Name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return claims{}, fmt.Sprintf("persistentvolumeclaim %q is being deleted", c.Name)
		}
		if c.Ephemeral {
			if err := ephemeral.VolumeIsForPod(pod.Pod, claim); err != nil {
				return claims{}, err.Error()
			}
		}
		if Bound(claim) {
			cs.bound = append(cs.bound, claim)
			continue
		}
		class := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
		if class != nil && class.VolumeBindingMode == nil {
			return claims{}, fmt.Sprintf("VolumeBindingMode not set for StorageClass %q", class.Name)
		}
		// A claim that names its volume is bound by the controller, whatever its class says.
		if class != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer && claim.Spec.VolumeName == "" {
			cs.delayed = append(cs.delayed, claim)
		} else {
			immediate = true
		}
	}
	if immediate {
		return claims{}, unboundImmediate
	}
	return cs, ""
}

// Bound says whether a claim is bound to its volume for good.
func Bound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// Plan works out what has to be written for the Pod's claims before it can be bound to the node, which Prepare has let
// pass; nil for nothing.
func Plan(pod *framework.Pod, storage *framework.Storage, node *corev1.Node) (*framework.VolumePlan, error) {
	if len(pod.Claims) == 0 {
		return nil, nil
	}
	cs, none := claimsOf(pod, storage)
	if none != "" {
		return nil, fmt.Errorf("plan volumes: %s", none)
	}
	if len(cs.delayed) == 0 {
		return nil, nil
	}
	found, ok := find(cs.delayed, storage, node)
	if !ok {
		return nil, fmt.Errorf("plan volumes: %s", noVolume)
	}
	plan := &framework.VolumePlan{}
	for _, claim := range cs.delayed {
		plan.Waited = append(plan.Waited, framework.Key(claim))
	}
	for _, match := range found.matches {
		v, changed, err := volume.GetBindVolumeToClaim(match.volume, match.claim)
		if err != nil {
			return nil, fmt.Errorf("plan volumes: %w", err)
		}
		if changed {
			plan.Volumes = append(plan.Volumes, v)
		}
	}
	for _, claim := range found.provision {
		selected := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&selected.ObjectMeta, volume.AnnSelectedNode, node.Name)
		if claim.Annotations[volume.AnnSelectedNode] != node.Name {
			plan.Claims = append(plan.Claims, selected)
		}
	}
	return plan, nil
}

// Helps implements framework.Waker: a claim of the Pod changed, a volume or class appeared or changed in what matters, a
// node has other labels, or a driver has room for larger volumes, or does not tell any more.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.NewVolume != nil:
		old, new := e.OldVolume, e.NewVolume
		return old == nil || old.Status.Phase != new.Status.Phase || !equality.Semantic.DeepEqual(old.Spec, new.Spec) ||
			!equality.Semantic.DeepEqual(old.Labels, new.Labels) || !equality.Semantic.DeepEqual(old.Annotations, new.Annotations)
	case e.NewClass != nil:
		old, new := e.OldClass, e.NewClass
		return old == nil || !equality.Semantic.DeepEqual(old.AllowedTopologies, new.AllowedTopologies)
	}
	return e.ClaimOf(pod) || e.NodeLabelsChanged() || roomier(e)
}

// roomier says whether e is a driver that has room for larger volumes than before, or does not tell any more.
func roomier(e framework.Event) bool {
	switch {
	case e.OldCSIDriver != nil:
		return framework.ReportsRoom(e.OldCSIDriver) && !framework.ReportsRoom(e.NewCSIDriver)
	case e.NewCapacity == nil:
		return false
	}
	now := framework.VolumeLimit(e.NewCapacity)
	if now == nil || e.OldCapacity == nil {
		return now != nil
	}
	before := framework.VolumeLimit(e.OldCapacity)
	return before == nil || now.Cmp(*before) > 0
}
