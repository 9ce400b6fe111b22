package deployment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// dep is a Deployment with a rolling update strategy.
func dep(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas, Strategy: appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}}}}
}

// rset is a ReplicaSet of so many replicas, of which some are available. The later in a test it is made the younger it is.
func rset(name string, age int, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(1000-age), 0)},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: available, AvailableReplicas: available},
	}
}

func say(todo []resize) string {
	var out []string
	for _, r := range todo {
		out = append(out, fmt.Sprintf("%s=%d", r.rs.Name, r.to))
	}
	return strings.Join(out, " ")
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		replicas                         int32
		maxSurge, maxUnavailable         string
		surge, unavailable, largestCount int32
	}{
		{10, "25%", "25%", 3, 2, 13},
		{4, "50%", "50%", 2, 2, 6},
		{3, "25%", "25%", 1, 0, 4},
		{1, "25%", "25%", 1, 0, 2},
		{3, "0", "25%", 0, 1, 3},
		{2, "0", "5", 0, 2, 2},
		{0, "1", "1", 1, 0, 1},
	} {
		d := dep(c.replicas, c.maxSurge, c.maxUnavailable)
		s, u := bounds(d)
		if s != c.surge || u != c.unavailable || largest(d) != c.largestCount {
			t.Errorf("%d replicas, surge %s, unavailable %s: %d, %d, largest %d; want %d, %d, %d",
				c.replicas, c.maxSurge, c.maxUnavailable, s, u, largest(d), c.surge, c.unavailable, c.largestCount)
		}
	}
	d := dep(5, "1", "1")
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	if s, u := bounds(d); s != 0 || u != 0 {
		t.Errorf("Recreate has the bounds %d and %d", s, u)
	}
}

func TestRolling(t *testing.T) {
	for _, c := range []struct {
		what   string
		d      *appsv1.Deployment
		newest *appsv1.ReplicaSet
		olds   []*appsv1.ReplicaSet
		want   string
	}{
		{"new grows into the surge", dep(10, "3", "2"), rset("new", 0, 0, 0), []*appsv1.ReplicaSet{rset("old", 5, 10, 10)}, "new=3"},
		{"old gives way while new is not available", dep(10, "3", "2"), rset("new", 0, 3, 0), []*appsv1.ReplicaSet{rset("old", 5, 10, 10)}, "old=8"},
		{"new takes the room", dep(10, "3", "2"), rset("new", 0, 3, 0), []*appsv1.ReplicaSet{rset("old", 5, 8, 8)}, "new=5"},
		{"nothing while too few are available", dep(10, "3", "2"), rset("new", 0, 5, 0), []*appsv1.ReplicaSet{rset("old", 5, 8, 8)}, ""},
		{"broken ones go first, oldest first", dep(4, "1", "1"), rset("new", 0, 1, 1),
			[]*appsv1.ReplicaSet{rset("b", 5, 2, 1), rset("a", 9, 2, 1)}, "a=1 b=1"},
		{"all that is left goes when new is available", dep(4, "2", "2"), rset("new", 0, 4, 4), []*appsv1.ReplicaSet{rset("old", 5, 2, 2)}, "old=0"},
		{"new shrinks to size", dep(2, "1", "1"), rset("new", 0, 5, 5), nil, "new=2"},
		{"done", dep(3, "1", "1"), rset("new", 0, 3, 3), []*appsv1.ReplicaSet{rset("old", 5, 0, 0)}, ""},
		{"to nothing", dep(0, "1", "1"), rset("new", 0, 3, 3), []*appsv1.ReplicaSet{rset("old", 5, 2, 2)}, "new=0"},
	} {
		if got := say(rolling(c.d, c.newest, c.olds)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// A rolling update of any bounds comes to its end, and has never too many Pods nor too few that are available.
func TestRollingKeepsItsBounds(t *testing.T) {
	for replicas := int32(1); replicas <= 7; replicas++ {
		for surge := int32(0); surge <= 3; surge++ {
			for unavailable := int32(0); unavailable <= 3; unavailable++ {
				d := dep(replicas, fmt.Sprint(surge), fmt.Sprint(unavailable))
				s, u := bounds(d)
				newest, old := rset("new", 0, 0, 0), rset("old", 5, replicas, replicas)
				steps := 0
				for ; size(newest) != replicas || size(old) != 0; steps++ {
					todo := rolling(d, newest, []*appsv1.ReplicaSet{old})
					for _, r := range todo {
						if r.to < size(r.rs) {
							r.rs.Status.AvailableReplicas = min(r.rs.Status.AvailableReplicas, r.to)
						}
						r.rs.Spec.Replicas = ptr.To(r.to)
					}
					have := newest.Status.AvailableReplicas + old.Status.AvailableReplicas
					if total := size(newest) + size(old); total > replicas+s || have < replicas-u {
						t.Fatalf("%d replicas, surge %d, unavailable %d: %d Pods, %d available", replicas, surge, unavailable, total, have)
					}
					if len(todo) == 0 { // the kubelet's turn
						if newest.Status.AvailableReplicas == size(newest) || steps > 100 {
							t.Fatalf("%d replicas, surge %d, unavailable %d: stuck at new %d, old %d", replicas, surge, unavailable, size(newest), size(old))
						}
						newest.Status.AvailableReplicas++
					}
				}
			}
		}
	}
}

func TestProportional(t *testing.T) {
	// for an old size of the Deployment
	sizedFor := func(rs *appsv1.ReplicaSet, desired, most string) *appsv1.ReplicaSet {
		rs.Annotations = map[string]string{desiredAnnotation: desired, maxAnnotation: most}
		return rs
	}
	for _, c := range []struct {
		what   string
		d      *appsv1.Deployment
		newest *appsv1.ReplicaSet
		olds   []*appsv1.ReplicaSet
		want   string
	}{
		{"one set takes all", dep(5, "1", "1"), sizedFor(rset("new", 0, 3, 3), "3", "4"), []*appsv1.ReplicaSet{rset("old", 5, 0, 0)}, "new=5"},
		{"the latest takes all from nothing", dep(5, "1", "1"), nil, []*appsv1.ReplicaSet{rset("b", 5, 0, 0), rset("a", 9, 0, 0)}, "b=5"},
		{"an old one that is alone", dep(5, "1", "1"), rset("new", 0, 0, 0), []*appsv1.ReplicaSet{sizedFor(rset("old", 5, 2, 2), "2", "3")}, "old=5"},
		{"in proportion", dep(20, "50%", "0"), sizedFor(rset("new", 0, 5, 0), "10", "15"),
			[]*appsv1.ReplicaSet{sizedFor(rset("old", 5, 10, 10), "10", "15")}, "old=20 new=10"},
		{"what rounding leaves goes to the largest", dep(15, "3", "2"), sizedFor(rset("new", 0, 5, 0), "10", "13"),
			[]*appsv1.ReplicaSet{sizedFor(rset("old", 5, 8, 8), "10", "13")}, "old=11 new=7"},
		{"down to nothing", dep(0, "3", "2"), sizedFor(rset("new", 0, 5, 0), "10", "13"),
			[]*appsv1.ReplicaSet{sizedFor(rset("old", 5, 8, 8), "10", "13")}, "old=0 new=0"},
		{"a full new set ends the old ones", dep(3, "1", "1"), sizedFor(rset("new", 0, 3, 3), "3", "4"),
			[]*appsv1.ReplicaSet{sizedFor(rset("old", 5, 1, 1), "2", "4")}, "old=0"},
	} {
		if got := say(proportional(c.d, c.newest, c.olds)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestSurplus(t *testing.T) {
	at := func(rev string, rs *appsv1.ReplicaSet) *appsv1.ReplicaSet {
		rs.Annotations = map[string]string{revisionAnnotation: rev}
		return rs
	}
	olds := []*appsv1.ReplicaSet{at("10", rset("d", 1, 0, 0)), at("2", rset("b", 9, 0, 0)), at("1", rset("a", 8, 1, 0)), at("9", rset("c", 2, 0, 0))}
	var got []string
	for _, rs := range surplus(olds, 2) {
		got = append(got, rs.Name)
	}
	if strings.Join(got, " ") != "b" {
		t.Errorf("surplus is %v, want b: a has Pods", got)
	}
}

func TestAnnotate(t *testing.T) {
	d := dep(1, "1", "1")
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "why", revisionAnnotation: "7"}
	first := annotate(d, nil, 1)
	if first[revisionAnnotation] != "1" || first["kubernetes.io/change-cause"] != "why" || first[historyAnnotation] != "" {
		t.Errorf("first: %v", first)
	}
	back := annotate(d, annotate(d, first, 3), 5)
	if back[revisionAnnotation] != "5" || back[historyAnnotation] != "1,3" {
		t.Errorf("back again: %v", back)
	}
	if same := annotate(d, back, 5); same[historyAnnotation] != "1,3" {
		t.Errorf("unchanged: %v", same)
	}
}

func TestDeadline(t *testing.T) {
	d := dep(1, "1", "1")
	d.Name, d.Spec.ProgressDeadlineSeconds = "d", ptr.To[int32](10)
	newest := rset("new", 0, 1, 0)
	start := time.Unix(5000, 0)
	reason := func() string { return condition(&d.Status, appsv1.DeploymentProgressing).Reason }
	d.Status = report(d, newest, nil, start)
	if at := checkAt(d, &d.Status); reason() != reasonUpdated || !at.Equal(start.Add(11*time.Second)) {
		t.Errorf("first %s, to be checked %v", reason(), at)
	}
	d.Status = report(d, newest, nil, start.Add(5*time.Second))
	if reason() != reasonUpdated {
		t.Errorf("%s before the deadline", reason())
	}
	d.Status = report(d, newest, nil, start.Add(11*time.Second))
	if at := checkAt(d, &d.Status); reason() != reasonTimedOut || !at.IsZero() {
		t.Errorf("%s after the deadline, to be checked %v", reason(), at)
	}
	newest.Status.AvailableReplicas = 1
	d.Status = report(d, newest, nil, start.Add(12*time.Second))
	if reason() != reasonComplete {
		t.Errorf("%s when complete", reason())
	}
	newest.Status.AvailableReplicas = 0
	d.Status = report(d, newest, nil, start.Add(30*time.Second))
	if at := checkAt(d, &d.Status); reason() != reasonComplete || !at.IsZero() {
		t.Errorf("%s when a Pod is lost after the end, to be checked %v", reason(), at)
	}
}
