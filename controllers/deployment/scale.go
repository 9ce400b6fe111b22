package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// What a ReplicaSet remembers of its Deployment's size, by which a change of it is noticed, and shared out in proportion.
const (
	desiredAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// largest is how many Pods the Deployment may have at once.
func largest(d *appsv1.Deployment) int32 {
	surge, _ := bounds(d)
	return desired(d) + surge
}

func numberOf(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

func compareAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// wasScaled says whether the Deployment's size is another than the one that a ReplicaSet was last scaled for.
func wasScaled(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) bool {
	return slices.ContainsFunc(active(sets), func(rs *appsv1.ReplicaSet) bool {
		n, ok := numberOf(rs, desiredAnnotation)
		return ok && n != desired(d)
	})
}

// proportional answers a change of the Deployment's size. One ReplicaSet takes it alone if it is the only one with Pods, or
// the latest; while a rolling update is under way all share it by their sizes, so that it goes on as it was.
func proportional(d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []resize {
	all := olds
	if newest != nil {
		all = append(slices.Clone(olds), newest)
	}
	running := active(all)
	if alone := activeOrLatest(newest, olds, running); alone != nil || len(all) == 0 {
		if alone == nil {
			return nil
		}
		return []resize{{alone, desired(d)}}
	}
	if saturated(d, newest) {
		var out []resize
		for _, rs := range active(olds) {
			out = append(out, resize{rs, 0})
		}
		return out
	}
	if isRolling(d) {
		return share(d, running)
	}
	// Recreate ends the old ones anyway; they only remember the size that they were seen at.
	out := make([]resize, 0, len(running))
	for _, rs := range running {
		out = append(out, resize{rs, size(rs)})
	}
	return out
}

func activeOrLatest(newest *appsv1.ReplicaSet, olds, running []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(running) == 1:
		return running[0]
	case len(running) > 1:
		return nil
	case newest != nil:
		return newest
	case len(olds) > 0:
		return slices.MaxFunc(olds, compareAge)
	}
	return nil
}

// saturated says whether the new ReplicaSet has all Pods of the Deployment, and they are available.
func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	n, ok := numberOf(rs, desiredAnnotation)
	return ok && size(rs) == desired(d) && n == desired(d) && rs.Status.AvailableReplicas == desired(d)
}

// share gives or takes what the ReplicaSets together lack or exceed, the largest first; when Pods are added the newer of two
// of one size goes first, when they are taken away the older. What rounding leaves over goes to the first.
func share(d *appsv1.Deployment, running []*appsv1.ReplicaSet) []resize {
	var allowed int32
	if desired(d) > 0 {
		allowed = largest(d)
	}
	add := allowed - sum(running, size)
	running = slices.Clone(running)
	slices.SortStableFunc(running, func(a, b *appsv1.ReplicaSet) int {
		age := compareAge(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), age)
	})
	var added int32
	out := make([]resize, 0, len(running))
	for _, rs := range running {
		n := proportion(d, rs, add, added)
		added += n
		out = append(out, resize{rs, size(rs) + n})
	}
	if add != 0 {
		out[0].to = max(0, out[0].to+add-added)
	}
	return out
}

// proportion is a ReplicaSet's part of what is to be added, of which some is given out already.
func proportion(d *appsv1.Deployment, rs *appsv1.ReplicaSet, add, added int32) int32 {
	if size(rs) == 0 || add == 0 || add == added {
		return 0
	}
	if part := fraction(d, rs); add > 0 {
		return min(part, add-added)
	} else {
		return max(part, add-added)
	}
}

// fraction is by how much the ReplicaSet would grow to keep its part of the Deployment's largest size.
func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	if desired(d) == 0 {
		return -size(rs)
	}
	before, ok := numberOf(rs, maxAnnotation)
	if !ok || before == 0 {
		before = d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	return int32(math.Round(float64(size(rs))*float64(largest(d))/float64(before))) - size(rs)
}
