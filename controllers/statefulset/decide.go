package statefulset

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/pods"
)

// ordinalOf is the number at the end of the name of one of the set's Pods, -1 where the name is not of that form.
func ordinalOf(set, pod string) int {
	rest, ok := strings.CutPrefix(pod, set+"-")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 0 || strconv.Itoa(n) != rest {
		return -1
	}
	return n
}

// firstOf is the lowest ordinal of the set.
func firstOf(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// inRange says whether the set is to have a Pod of the ordinal.
func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	first := firstOf(set)
	return ordinal >= first && ordinal < first+int(ptr.Deref(set.Spec.Replicas, 1))
}

// plan is what is to be done next.
type plan struct {
	// create are ordinals, remove Pods.
	create []int
	remove []*corev1.Pod
	status appsv1.StatefulSetStatus
	again  time.Time
}

// survey is a set with its Pods.
type survey struct {
	set             *appsv1.StatefulSet
	current, update string // names of revisions
	now             time.Time
	first, wanted   int
	byOrdinal       map[int]*corev1.Pod
	condemned       []*corev1.Pod // the highest ordinal first
	out             plan
}

// decide decides what is to be done about a set whose Pods these are.
func decide(set *appsv1.StatefulSet, list []*corev1.Pod, current, update string, now time.Time) plan {
	s := &survey{set: set, current: current, update: update, now: now, wanted: int(ptr.Deref(set.Spec.Replicas, 1)), byOrdinal: map[int]*corev1.Pod{}}
	s.first = firstOf(set)
	for _, p := range list {
		switch n := ordinalOf(set.Name, p.Name); {
		case inRange(set, n):
			s.byOrdinal[n] = p
		case n >= 0:
			s.condemned = append(s.condemned, p)
		}
	}
	slices.SortFunc(s.condemned, func(a, b *corev1.Pod) int { return ordinalOf(set.Name, b.Name) - ordinalOf(set.Name, a.Name) })
	s.count(list)
	if set.DeletionTimestamp == nil && s.fill() && s.shrink() {
		s.roll()
	}
	return s.out
}

func (s *survey) ordered() bool {
	return s.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

func ready(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && pods.Ready(p) != nil }

// available says whether the Pod has been ready for long enough; where it will be, the set is looked at again then.
func (s *survey) available(p *corev1.Pod) bool {
	if !ready(p) {
		return false
	}
	ok, when := pods.Available(p, s.set.Spec.MinReadySeconds, s.now)
	if !ok && (s.out.again.IsZero() || when.Before(s.out.again)) {
		s.out.again = when
	}
	return ok
}

// serves says whether the Pod is available, and to stay so.
func (s *survey) serves(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && s.available(p)
}

func (s *survey) count(list []*corev1.Pod) {
	st := &s.out.status
	*st = appsv1.StatefulSetStatus{
		ObservedGeneration: s.set.Generation, CurrentRevision: s.current, UpdateRevision: s.update,
		CollisionCount: new(ptr.Deref(s.set.Status.CollisionCount, 0)), Conditions: s.set.Status.Conditions,
	}
	for _, p := range list {
		st.Replicas++
		if ready(p) {
			st.ReadyReplicas++
			// One that ends counts as upstream counts it: until it is not ready.
			if s.available(p) {
				st.AvailableReplicas++
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(p) == s.current {
			st.CurrentReplicas++
		}
		if revisionOf(p) == s.update {
			st.UpdatedReplicas++
		}
	}
	rolling := s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType
	if rolling && st.UpdatedReplicas == st.Replicas && st.ReadyReplicas == st.Replicas && int(st.Replicas) == s.wanted {
		st.CurrentReplicas, st.CurrentRevision = st.UpdatedReplicas, s.update
	}
}

// fill makes missing Pods and replaces ended ones: in order one after the other, each when the one before it is available.
// It says whether the set is full and may go on to other work.
func (s *survey) fill() bool {
	full := true
	for n := s.first; n < s.first+s.wanted; n++ {
		switch p := s.byOrdinal[n]; {
		case p == nil:
			s.out.create = append(s.out.create, n)
			full = false
		case p.DeletionTimestamp != nil:
			full = full && !s.ordered()
		case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
			s.out.remove = append(s.out.remove, p)
			full = false
		case !s.serves(p):
			full = full && !s.ordered()
		}
		if !full && s.ordered() {
			return false
		}
	}
	return full || !s.ordered()
}

// shrink deletes Pods beyond the number wanted, in order the highest first. In order a Pod that is not available holds up all,
// for those that are left may need it, unless it is the lowest such: that one may be what the others wait for.
func (s *survey) shrink() bool {
	lowest := -1
	for i, p := range s.condemned {
		if !s.serves(p) {
			lowest = i
		}
	}
	for i, p := range s.condemned {
		if p.DeletionTimestamp == nil {
			if s.ordered() && i != lowest && !s.serves(p) {
				return false
			}
			s.out.remove = append(s.out.remove, p)
		}
		if s.ordered() {
			return false
		}
	}
	return true
}

// roll replaces Pods of other revisions, the highest ordinal first and not below the partition, while no more than so many
// are unavailable. One that is unavailable itself costs nothing more, so that a broken template can be taken back; but those
// above it come first.
func (s *survey) roll() {
	strategy := s.set.Spec.UpdateStrategy
	if strategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || len(s.out.create)+len(s.out.remove) > 0 {
		return
	}
	lowest, most := s.first, 1
	if r := strategy.RollingUpdate; r != nil {
		lowest += int(ptr.Deref(r.Partition, 0))
		if r.MaxUnavailable != nil {
			if n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, s.wanted, true); err == nil {
				most = max(1, n)
			}
		}
	}
	away := 0
	for _, p := range s.byOrdinal {
		if !s.serves(p) {
			away++
		}
	}
	passed := 0 // how many of those above are unavailable, or are to be
	for n := s.first + s.wanted - 1; n >= lowest && passed < most; n-- {
		p := s.byOrdinal[n]
		if p == nil {
			return
		}
		old, served := p.DeletionTimestamp == nil && revisionOf(p) != s.update, s.serves(p)
		if old && served {
			if away >= most {
				return
			}
			away++
		}
		if old {
			s.out.remove = append(s.out.remove, p)
		}
		if old || !served {
			passed++
		}
	}
}

// revisionFor is the revision by which the Pod of an ordinal is made: below the partition, or where an update has not come
// to yet, the current one.
func revisionFor(set *appsv1.StatefulSet, ordinal int, current, update string) string {
	strategy := set.Spec.UpdateStrategy
	first := firstOf(set)
	if strategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return update
	}
	if r := strategy.RollingUpdate; r != nil && r.Partition != nil {
		if ordinal < first+int(*r.Partition) {
			return current
		}
		return update
	}
	if ordinal < first+int(set.Status.CurrentReplicas) {
		return current
	}
	return update
}
