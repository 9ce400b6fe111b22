package allocation

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/util/qos"
)

// Request is a Pod that asks for other resources than it has.
type Request struct {
	Pod       *v1.Pod // with what it asks for
	Allocated Resources
	// Since is when it was first put off, zero if it was not yet.
	Since time.Time
}

// Sort puts requests in the order in which they are granted: first those that
// ask for no more than they have, for they make room; then by priority; then
// Guaranteed Pods; then who waits longest. Those never put off come last, in the
// order of their UIDs.
func Sort(requests []Request) {
	type key struct {
		grows      int
		priority   int32
		guaranteed int
		since      time.Time
	}
	keys := map[*v1.Pod]key{}
	for _, r := range requests {
		k := key{since: r.Since, guaranteed: 1}
		if grows(r.Pod, r.Allocated) {
			k.grows = 1
		}
		if r.Pod.Spec.Priority != nil {
			k.priority = *r.Pod.Spec.Priority
		}
		if qos.GetPodQOS(r.Pod) == v1.PodQOSGuaranteed {
			k.guaranteed = 0
		}
		keys[r.Pod] = k
	}
	slices.SortFunc(requests, func(a, b Request) int {
		x, y := keys[a.Pod], keys[b.Pod]
		return cmp.Or(cmp.Compare(x.grows, y.grows), cmp.Compare(y.priority, x.priority), cmp.Compare(x.guaranteed, y.guaranteed),
			waited(x.since, y.since), cmp.Compare(a.Pod.UID, b.Pod.UID))
	})
}

func waited(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}
