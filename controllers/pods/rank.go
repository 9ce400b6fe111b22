package pods

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// RankForDeletion sorts Pods so that those whose going costs least come first, as upstream ranks them. crowd is how many
// Pods that serve the same purpose run on a Pod's node.
func RankForDeletion(list []*corev1.Pod, crowd func(*corev1.Pod) int, now time.Time) {
	slices.SortStableFunc(list, func(a, b *corev1.Pod) int { return compareForDeletion(a, b, crowd, now) })
}

// phaseRank orders phases by how far a Pod has come.
var phaseRank = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

func compareForDeletion(a, b *corev1.Pod, crowd func(*corev1.Pod) int, now time.Time) int {
	readyA, readyB := Ready(a), Ready(b)
	if r := cmp.Or(
		trueFirst(a.Spec.NodeName == "", b.Spec.NodeName == ""),
		cmp.Compare(phaseRank[a.Status.Phase], phaseRank[b.Status.Phase]),
		trueFirst(readyA == nil, readyB == nil),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		cmp.Compare(crowd(b), crowd(a)),
	); r != 0 {
		return r
	}
	if readyA != nil && readyB != nil && !readyA.LastTransitionTime.Equal(&readyB.LastTransitionTime) {
		return cmp.Or(youngerFirst(readyA.LastTransitionTime, readyB.LastTransitionTime, now), cmp.Compare(a.UID, b.UID))
	}
	mainA, sideA := restarts(a)
	mainB, sideB := restarts(b)
	if r := cmp.Or(cmp.Compare(mainB, mainA), cmp.Compare(sideB, sideA)); r != 0 {
		return r
	}
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return 0
	}
	return cmp.Or(youngerFirst(a.CreationTimestamp, b.CreationTimestamp, now), cmp.Compare(a.UID, b.UID))
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// youngerFirst compares ages by their order of magnitude, so that among Pods of about one age any may go (KEP-2185).
func youngerFirst(a, b metav1.Time, now time.Time) int {
	rank := func(t metav1.Time) int {
		if t.IsZero() {
			return -1
		}
		return bits.Len64(uint64(max(0, now.Sub(t.Time)/time.Second)))
	}
	return cmp.Compare(rank(a), rank(b))
}

// restarts is how often the container of a Pod that restarted most has done so, of its main ones and of its sidecars.
func restarts(p *corev1.Pod) (main, side int32) {
	for _, c := range p.Status.ContainerStatuses {
		main = max(main, c.RestartCount)
	}
	for _, c := range p.Spec.InitContainers {
		if ptr.Deref(c.RestartPolicy, "") != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for _, s := range p.Status.InitContainerStatuses {
			if s.Name == c.Name {
				side = max(side, s.RestartCount)
			}
		}
	}
	return main, side
}

// deletionCost is the annotation's value (KEP-2255), 0 where there is none that is a number.
func deletionCost(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}
