package statefulset

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		var list []*corev1.Pod
		for i, state := range test.pods {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("ss-%d", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
			if state != 'n' {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
			if state == 't' {
				p.DeletionTimestamp = ptr.To(metav1.Now())
			}
			list = append(list, p)
		}
		names := []string{}
		for _, p := range decide(set, list, "a", "a", time.Now()).remove {
			names = append(names, p.Name)
		}
		if got := fmt.Sprint(names); got != test.remove {
			t.Errorf("%s to %d, parallel %t: removes %s, want %s", test.pods, test.wanted, test.parallel, got, test.remove)
		}
	}
}
