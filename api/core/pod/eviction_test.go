package pod

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDisruptionBudgetIsSpent(t *testing.T) {
	budget := func(generation int64, allowed int32) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: generation},
			Status: policyv1.PodDisruptionBudgetStatus{
				ObservedGeneration: 1, DisruptionsAllowed: allowed, DesiredHealthy: 2, CurrentHealthy: 3,
			},
		}
	}
	b := budget(1, 1)
	if err := disrupt(b, "p"); err != nil {
		t.Fatal(err)
	}
	if _, noted := b.Status.DisruptedPods["p"]; !noted || b.Status.DisruptionsAllowed != 0 || b.Status.Conditions[0].Status != metav1.ConditionFalse {
		t.Errorf("is %+v", b.Status)
	}
	for cause, b := range map[string]*policyv1.PodDisruptionBudget{
		"The disruption budget b needs 2 healthy pods and has 3 currently": b,
		"The disruption budget b is still being processed by the server.":  budget(2, 1),
	} {
		err := disrupt(b, "q")
		if !apierrors.IsTooManyRequests(err) || err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." {
			t.Errorf("got %v", err)
			continue
		}
		if got := err.(apierrors.APIStatus).Status().Details.Causes[0].Message; got != cause {
			t.Errorf("cause is %q, want %q", got, cause)
		}
	}
	if err := disrupt(budget(1, -1), "q"); !apierrors.IsForbidden(err) {
		t.Errorf("negative: %v", err)
	}
}

func TestUnhealthyPodsNeedNoBudget(t *testing.T) {
	ready := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	b := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 2, CurrentHealthy: 1}}
	if needless(b, ready) || needless(b, &corev1.Pod{}) {
		t.Error("a budget that is not met guards unready Pods, too")
	}
	b.Status.CurrentHealthy = 2
	if needless(b, ready) || !needless(b, &corev1.Pod{}) {
		t.Error("a budget that is met guards ready Pods only")
	}
	b.Status.CurrentHealthy = 0
	b.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow)
	if !needless(b, &corev1.Pod{}) {
		t.Error("AlwaysAllow lets unready Pods go")
	}
}

func TestContainerIsChosen(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		InitContainers:      []corev1.Container{{Name: "i"}},
		Containers:          []corev1.Container{{Name: "a"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}}},
	}}
	for name, want := range map[string]string{"": "a", "a": "a", "i": "i", "e": "e"} {
		if got, err := chooseContainer(p, name); got != want || err != nil {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"})
	want := "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
	if _, err := chooseContainer(p, ""); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}
