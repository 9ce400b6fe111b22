package disruption

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

var web = map[string]string{"app": "web"}

// pod makes a Pod that nothing runs.
func pod(t *testing.T, w *controltest.World, name string, owners ...metav1.OwnerReference) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: web, OwnerReferences: owners}, Spec: controltest.Template(web).Spec}
	made, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func budget(t *testing.T, w *controltest.World) {
	t.Helper()
	_, err := w.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromString("50%")), Selector: &metav1.LabelSelector{MatchLabels: web}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNobodysPods: a budget in percent cannot reckon with Pods that no controller has, and says so.
func TestNobodysPods(t *testing.T) {
	w := controltest.Start(t, New)
	pod(t, w, "bare")
	budget(t, w)
	w.Event(t, "web", "UnmanagedPods", `please set ".spec.minAvailable" field of the PDB to an integer value`)
}

// TestUnscalableOwner: a controller without a size is named.
func TestUnscalableOwner(t *testing.T) {
	w := controltest.Start(t, New)
	j, err := w.Client.BatchV1().Jobs(ns).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: controltest.Template(nil).Spec.Containers}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod(t, w, "once-1", *metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job")))
	budget(t, w)
	w.Event(t, "web", "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: jobs.batch does not implement the scale subresource")
}

// TestScaleOf asks for the size of an object as of one of a kind that is not known here.
func TestScaleOf(t *testing.T) {
	var c *controller
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		made, err := New(d)
		c = made.(*controller)
		return made, err
	})
	d, err := w.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](7), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: controltest.Template(web)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kind := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	for _, test := range []struct {
		ref  metav1.OwnerReference
		want int
		none bool
	}{
		{metav1.OwnerReference{Name: "web", UID: d.UID}, 7, false},
		{metav1.OwnerReference{Name: "web", UID: "another"}, 0, true},
		{metav1.OwnerReference{Name: "gone", UID: d.UID}, 0, true},
	} {
		uid, n, err := c.scaleOf(t.Context(), kind, "v1", ns, &test.ref)
		if err != nil || n != test.want || (uid == "") != test.none {
			t.Errorf("%s: %q, %d, %v", test.ref.Name, uid, n, err)
		}
	}
	if _, _, err := c.scaleOf(t.Context(), schema.GroupKind{Group: "example.com", Kind: "Thing"}, "v1", ns, &metav1.OwnerReference{Name: "x"}); err == nil || !strings.Contains(err.Error(), "no matches for kind") {
		t.Errorf("a kind that is not served: %v", err)
	}
}

// TestStaleDisruption: what says that a Pod is about to be deleted is taken back if that does not come, but not the kubelet's word.
func TestStaleDisruption(t *testing.T) {
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		return newAt(d, func() time.Time { return time.Now().Add(evictionTime) })
	})
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	mark := func(p *corev1.Pod, reason string) {
		t.Helper()
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: reason, Message: "evicting", LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Second))})
		if _, err := w.Client.CoreV1().Pods(ns).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	said := func(name string) corev1.PodCondition {
		t.Helper()
		p, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				return c
			}
		}
		return corev1.PodCondition{}
	}
	mark(pod(t, w, "kubelets"), corev1.PodReasonTerminationByKubelet)
	mark(pod(t, w, "evicted"), "EvictionByEvictionAPI")
	w.Await(t, "the condition to be false", func() bool { return said("evicted").Status == corev1.ConditionFalse })
	if c := said("evicted"); c.Reason != "" || c.Message != "" {
		t.Errorf("it still says %s: %s", c.Reason, c.Message)
	}
	if c := said("kubelets"); c.Status != corev1.ConditionTrue {
		t.Errorf("the kubelet's is %s", c.Status)
	}
}
