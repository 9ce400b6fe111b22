// Package framework is what scheduling plugins are written against: Pods and nodes as the scheduler counts them, and the
// questions it asks. Everything here is read-only to a plugin and pure: no I/O, no clock.
package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Verdict is a plugin's answer about one node.
type Verdict int

const (
	// Fits says that the plugin has nothing against the node.
	Fits Verdict = iota
	// Busy says that the node would do if some Pods went away: preemption may help.
	Busy
	// Wrong says that no Pod's going changes anything.
	Wrong
	// Failed says that the plugin could not tell: no node is looked for any more, and the Pod is tried again after its back-off.
	Failed
)

// Reason is why a node will not do, as FailedScheduling events quote it. The zero Reason fits.
type Reason struct {
	Verdict Verdict
	Message string
	// Plugin is set by the cycle.
	Plugin string
	// Unblockable says that something which the Pod has could be taken back, and then the node might do.
	Unblockable bool
}

// Plugin is one rule. Which of the interfaces below it implements says where it is asked.
type Plugin interface {
	// Name is upstream's name of the rule.
	Name() string
}

// Filter says whether a Pod may run on a node. Prepare is called once a cycle and returns the check for each node, so
// that what does not depend on the node is worked out once; a nil check says that the rule does not concern the Pod. A
// non-zero reason says that no node will do.
type Filter interface {
	Plugin
	Prepare(pod *Pod, cluster *Cluster) (check func(*Node) []Reason, none Reason)
}

// Narrower names the only nodes that can do for a Pod, where the Pod's own words say so: the others are not looked at. limited
// is false where any may do. A non-zero reason says that none will do.
type Narrower interface {
	Filter
	Only(pod *Pod) (names []string, limited bool, none Reason)
}

// Score says how well nodes suit a Pod. PrepareScore is called once a cycle with the nodes that passed the filters; nil says
// that the rule makes no difference. The scores count Weight times.
type Score interface {
	Plugin
	PrepareScore(pod *Pod, cluster *Cluster, fit []*Node) (score func(*Node) int64)
	Weight() int64
}

// Normalizer brings the raw scores of all nodes to 0..MaxScore, in place. The scores of a plugin without it are in that range
// already.
type Normalizer interface {
	Score
	Normalize(raw []int64)
}

// MaxScore is the best score of one plugin.
const MaxScore = 100

// ScaleToMax scales scores that are not negative so that the highest becomes MaxScore; reversed, so that zero does.
func ScaleToMax(raw []int64, reversed bool) {
	highest := max(0, slices.Max(raw))
	for i, v := range raw {
		if highest > 0 {
			v = v * MaxScore / highest
		}
		if reversed {
			v = MaxScore - v
		}
		raw[i] = v
	}
}

// Waker says which events could make a Pod fit that the plugin has turned away. Only then is the Pod tried again.
type Waker interface {
	Plugin
	Helps(pod *Pod, e Event) bool
}

// Event is a change of the cluster. Exactly one of the pairs is set; Old is nil where something appeared, New where it
// went.
type Event struct {
	OldNode, NewNode *corev1.Node
	// OldPod and NewPod are Pods that are bound to a node.
	OldPod, NewPod *corev1.Pod
	// OldRequests and NewRequests are those of a Pod that stays on its node.
	OldRequests, NewRequests Resources

	OldNamespace, NewNamespace *corev1.Namespace

	OldClaim, NewClaim   *corev1.PersistentVolumeClaim
	OldVolume, NewVolume *corev1.PersistentVolume
	OldClass, NewClass   *storagev1.StorageClass

	OldCSINode, NewCSINode       *storagev1.CSINode
	OldCSIDriver, NewCSIDriver   *storagev1.CSIDriver
	OldAttachment, NewAttachment *storagev1.VolumeAttachment
	OldCapacity, NewCapacity     *storagev1.CSIStorageCapacity

	// Devices is nil for events of other kinds, of which there are many and which are handed on by value.
	Devices *DeviceEvent
}

// DeviceEvent is a change of what is known of devices. One of the pairs is set, as in Event, or none where all that was not known before
// is now.
type DeviceEvent struct {
	OldClaim, NewClaim *resourcev1.ResourceClaim
	OldClass, NewClass *resourcev1.DeviceClass
	OldSlice, NewSlice *resourcev1.ResourceSlice
	OldRule, NewRule   *resourcev1.DeviceTaintRule
}

// NodeAppearedOr says whether e is a new node, or a change of one for which changed is true.
func (e Event) NodeAppearedOr(changed func(old, new *corev1.Node) bool) bool {
	if e.NewNode == nil {
		return false
	}
	return e.OldNode == nil || changed(e.OldNode, e.NewNode)
}

// NodeAppeared says whether e is a new node.
func (e Event) NodeAppeared() bool { return e.NewNode != nil && e.OldNode == nil }

// NodeLabelsChanged says whether e is a new node, or one whose labels are others now.
func (e Event) NodeLabelsChanged() bool {
	return e.NodeAppearedOr(func(old, new *corev1.Node) bool { return !maps.Equal(old.Labels, new.Labels) })
}

// ClaimOf says whether e is a claim of the Pod that appeared or changed.
func (e Event) ClaimOf(pod *Pod) bool {
	return e.NewClaim != nil && pod.Uses(types.NamespacedName{Namespace: e.NewClaim.Namespace, Name: e.NewClaim.Name})
}

// PodLeft says whether e is a bound Pod that has gone or finished.
func (e Event) PodLeft() bool {
	return e.OldPod != nil && (e.NewPod == nil || Finished(e.NewPod) && !Finished(e.OldPod))
}

// Finished says whether the Pod holds none of its node's resources any more.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
