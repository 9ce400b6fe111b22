package statefulset

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// TestShrinkHalts: in order, Pods that are to go wait while one of them is not available, but for the lowest such.
func TestShrinkHalts(t *testing.T) {
	for _, test := range []struct {
		pods     string // one letter an ordinal: r is ready, n is not, t terminates
		wanted   int32
		parallel bool
		remove   string
	}{
		{"rrr", 0, false, "[ss-2]"},
		{"nnn", 0, false, "[]"},
		{"rrn", 0, false, "[ss-2]"},
		{"nrr", 0, false, "[ss-2]"},
		{"nrn", 0, false, "[]"},
		{"nn", 1, false, "[]"}, // the one that stays is not available: nothing is done
		{"rnn", 1, false, "[]"},
		{"rnr", 1, false, "[ss-2]"},
		{"rn", 1, false, "[ss-1]"},
		{"rrt", 1, false, "[]"},
		{"nnn", 0, true, "[ss-2 ss-1 ss-0]"},
	} {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "ss"}, Spec: appsv1.StatefulSetSpec{Replicas: &test.wanted}}
		if test.parallel {
			set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		if got := removed(decide(set, podsOf(test.pods), "a", "a", time.Now())); got != test.remove {
			t.Errorf("%s to %d, parallel %t: removes %s, want %s", test.pods, test.wanted, test.parallel, got, test.remove)
		}
	}
}

// TestCounts: a Pod that ends is ready and available until it is neither, but of no revision; collisions are told from the first time on.
func TestCounts(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "ss"}, Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3))}}
	list := podsOf("rrn")
	list[1].DeletionTimestamp = &metav1.Time{Time: time.Now()}
	st := decide(set, list, revisionOf(list[0]), "other", time.Now()).status
	if st.CollisionCount == nil || *st.CollisionCount != 0 {
		t.Errorf("collisions %v", st.CollisionCount)
	}
	if st.Replicas != 3 || st.ReadyReplicas != 2 || st.AvailableReplicas != 2 || st.CurrentReplicas != 2 {
		t.Errorf("counts %+v", st)
	}
}

// TestRoll: the highest ordinals go first, as many as may be unavailable; one that is unavailable anyway may always go in its
// turn.
func TestRoll(t *testing.T) {
	for _, test := range []struct {
		pods   string // one letter an ordinal: r is ready, n is not, t terminates; capitals are of the new revision
		most   int
		remove string
	}{
		{"rrr", 1, "[ss-2]"},
		{"rrr", 2, "[ss-2 ss-1]"},
		{"rrt", 1, "[]"},
		{"rrN", 1, "[]"},
		{"rrR", 1, "[ss-1]"},
		{"nnn", 1, "[ss-2]"},
		{"nnN", 1, "[]"},
		{"rrn", 1, "[ss-2]"},
		{"nrr", 1, "[]"},
		{"nrr", 2, "[ss-2]"},
		{"rnr", 2, "[ss-2 ss-1]"},
	} {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "ss"}, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(len(test.pods))), PodManagementPolicy: appsv1.ParallelPodManagement,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr.To(intstr.FromInt(test.most))}}}}
		list := podsOf(strings.ToLower(test.pods))
		for i, state := range test.pods {
			list[i].Labels = map[string]string{appsv1.StatefulSetRevisionLabel: "old"}
			if unicode.IsUpper(state) {
				list[i].Labels[appsv1.StatefulSetRevisionLabel] = "new"
			}
		}
		if got := removed(decide(set, list, "old", "new", time.Now())); got != test.remove {
			t.Errorf("%s, %d may be away: removes %s, want %s", test.pods, test.most, got, test.remove)
		}
	}
}

// podsOf makes Pods, one a letter: r is ready, n is not, t terminates.
func podsOf(states string) (list []*corev1.Pod) {
	for i, state := range states {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("ss-%d", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if state != 'n' {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if state == 't' {
			p.DeletionTimestamp = ptr.To(metav1.Now())
		}
		list = append(list, p)
	}
	return list
}

// removed tells of the Pods that go.
func removed(todo plan) string {
	names := []string{}
	for _, p := range todo.remove {
		names = append(names, p.Name)
	}
	return fmt.Sprint(names)
}
