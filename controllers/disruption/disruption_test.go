package disruption_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/disruption"
	"github.com/peapod/peapod/controllers/replicaset"
	"github.com/peapod/peapod/test/controltest"
)

func TestBudget(t *testing.T) {
	const ns = controltest.Namespace
	w := controltest.Start(t, disruption.New, replicaset.New)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Policy().V1().PodDisruptionBudgets().Informer())
	w.Kubelet(t, "app=web")
	web := map[string]string{"app": "web"}
	_, err := w.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](4), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: controltest.Template(web)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	budgets := w.Client.PolicyV1().PodDisruptionBudgets(ns)
	half := intstr.FromString("50%")
	_, err = budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &half, Selector: &metav1.LabelSelector{MatchLabels: web}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await := func(allowed, healthy, desired, expected int32) {
		t.Helper()
		w.Await(t, "budget", func() bool {
			b, err := budgets.Get(t.Context(), "web", metav1.GetOptions{})
			s := b.Status
			return err == nil && s.DisruptionsAllowed == allowed && s.CurrentHealthy == healthy && s.DesiredHealthy == desired && s.ExpectedPods == expected
		})
	}
	await(2, 4, 2, 4)
	hundred := intstr.FromString("100%")
	b, err := budgets.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Spec.MinAvailable = &hundred
	if _, err := budgets.Update(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(0, 4, 4, 4)
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: w.Pods(t, "app=web")[0].Name, Namespace: ns}}
	if err := w.Client.PolicyV1().Evictions(ns).Evict(t.Context(), eviction); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eviction beyond the budget: %v", err)
	}
}
