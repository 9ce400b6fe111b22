package deployment

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// resize is a decision: the ReplicaSet is to have so many replicas.
type resize struct {
	rs *appsv1.ReplicaSet
	to int32
}

// size is how many replicas a ReplicaSet is to have.
func size(rs *appsv1.ReplicaSet) int32 {
	if rs == nil {
		return 0
	}
	return ptr.Deref(rs.Spec.Replicas, 1)
}

// sum adds up a number over ReplicaSets, nil ones counting nothing.
func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var n int32
	for _, rs := range sets {
		if rs != nil {
			n += of(rs)
		}
	}
	return n
}

func available(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }
func existing(rs *appsv1.ReplicaSet) int32  { return rs.Status.Replicas }
func isReady(rs *appsv1.ReplicaSet) int32   { return rs.Status.ReadyReplicas }

// desired is how many replicas a Deployment is to have.
func desired(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 1) }

func isRolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// bounds are how many Pods there may be above the desired number, and how many of it may be unavailable, during a rolling
// update. Percentages are of the desired number, rounded up above and down below, so that one may always advance: where
// both come to nothing, one Pod may be unavailable.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	n := desired(d)
	if !isRolling(d) {
		return 0, 0
	}
	r := ptr.Deref(d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
	surge, unavailable = scaled(r.MaxSurge, n, true), scaled(r.MaxUnavailable, n, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, n)
}

// scaled is a number or a percentage of n. What cannot be read was refused by validation and counts nothing.
func scaled(v *intstr.IntOrString, n int32, up bool) int32 {
	if v == nil {
		return 0
	}
	got, err := intstr.GetScaledValueFromIntOrPercent(v, int(n), up)
	if err != nil {
		return 0
	}
	return int32(got)
}

// roomForNew is how many replicas the new ReplicaSet may have now, next to the others.
func roomForNew(d *appsv1.Deployment, current int32, others []*appsv1.ReplicaSet) int32 {
	if !isRolling(d) {
		return desired(d)
	}
	surge, _ := bounds(d)
	room := desired(d) + surge - current - sum(others, size)
	return current + max(0, min(room, desired(d)-current))
}

// rolling is the next step of a rolling update: the new ReplicaSet gets what room there is, or else the old ones give way
// as far as enough Pods stay available, those first that are broken anyway. Nothing is left to do when it is empty.
func rolling(d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []resize {
	if size(newest) > desired(d) {
		return []resize{{newest, desired(d)}}
	}
	if to := roomForNew(d, size(newest), olds); to != size(newest) {
		return []resize{{newest, to}}
	}
	return shrink(d, newest, olds)
}

// shrink takes replicas off old ReplicaSets.
func shrink(d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []resize {
	olds = byAge(active(olds))
	_, unavailable := bounds(d)
	atLeast := desired(d) - unavailable
	// The new ReplicaSet's Pods that are not available yet may never be: they do not count.
	most := sum(olds, size) + size(newest) - atLeast - (size(newest) - available(newest))
	if len(olds) == 0 || most <= 0 {
		return nil
	}
	left := map[*appsv1.ReplicaSet]int32{}
	for _, rs := range olds {
		broken := min(most, max(0, size(rs)-available(rs)))
		left[rs] = size(rs) - broken
		most -= broken
	}
	spare := sum(olds, available) + available(newest) - atLeast
	for _, rs := range olds {
		if spare <= 0 {
			break
		}
		n := min(left[rs], spare)
		left[rs] -= n
		spare -= n
	}
	var out []resize
	for _, rs := range olds {
		if left[rs] != size(rs) {
			out = append(out, resize{rs, left[rs]})
		}
	}
	return out
}

// active are the ReplicaSets that are to have Pods.
func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var out []*appsv1.ReplicaSet
	for _, rs := range sets {
		if size(rs) > 0 {
			out = append(out, rs)
		}
	}
	return out
}

// byAge returns the ReplicaSets from the oldest to the newest.
func byAge(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	out := slices.Clone(sets)
	slices.SortStableFunc(out, compareAge)
	return out
}
