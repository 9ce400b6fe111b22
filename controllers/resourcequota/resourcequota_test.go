package resourcequota

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/controltest"
)

func newQuota(t *testing.T, w *controltest.World, name string, scopes []corev1.ResourceQuotaScope, hard ...string) {
	t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Scopes: scopes, Hard: corev1.ResourceList{}}}
	for i := 0; i < len(hard); i += 2 {
		q.Spec.Hard[corev1.ResourceName(hard[i])] = apiresource.MustParse(hard[i+1])
	}
	if _, err := w.Client.CoreV1().ResourceQuotas(controltest.Namespace).Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// awaitUsed waits until the quota's status says that just this is used, for the limits that its spec has.
func awaitUsed(t *testing.T, w *controltest.World, name string, used ...string) {
	t.Helper()
	lister := w.Informers.Core().V1().ResourceQuotas().Lister()
	var last *corev1.ResourceQuota
	defer func() {
		if t.Failed() && last != nil {
			t.Logf("status of %s is %+v", name, last.Status)
		}
	}()
	w.Await(t, "usage of "+name, func() bool {
		q, err := lister.ResourceQuotas(controltest.Namespace).Get(name)
		if err != nil {
			return false
		}
		last = q
		if len(q.Status.Used) != len(used)/2 || len(q.Status.Hard) != len(q.Spec.Hard) {
			return false
		}
		for i := 0; i < len(used); i += 2 {
			got, ok := q.Status.Used[corev1.ResourceName(used[i])]
			if !ok || got.Cmp(apiresource.MustParse(used[i+1])) != 0 {
				return false
			}
		}
		return true
	})
}

func newPod(t *testing.T, w *controltest.World, name string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apiresource.MustParse("100m")}
	if change != nil {
		change(p)
	}
	p, err := w.Client.CoreV1().Pods(controltest.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, New)
	w.Watch(t, w.Informers.Core().V1().ResourceQuotas().Informer())
	return w
}

func TestPodsAreCounted(t *testing.T) {
	w := start(t)
	a := newPod(t, w, "a", nil)
	newPod(t, w, "b", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](60) })
	newQuota(t, w, "all", nil, "pods", "10", "count/pods", "10", "requests.cpu", "1")
	newQuota(t, w, "short", []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}, "pods", "5")
	awaitUsed(t, w, "all", "pods", "2", "count/pods", "2", "requests.cpu", "200m")
	awaitUsed(t, w, "short", "pods", "1")

	// One that has ended asks for nothing, but is still there.
	w.SetPhase(t, a, corev1.PodSucceeded)
	awaitUsed(t, w, "all", "pods", "1", "count/pods", "2", "requests.cpu", "100m")
	w.DeletePod(t, "a")
	awaitUsed(t, w, "all", "pods", "1", "count/pods", "1", "requests.cpu", "100m")
	w.DeletePod(t, "b")
	awaitUsed(t, w, "all", "pods", "0", "count/pods", "0", "requests.cpu", "0")
	awaitUsed(t, w, "short", "pods", "0")
}

// A Pod that nobody ends is charged until its time is over: no event says when that is.
func TestPodThatDoesNotEndIsLetGo(t *testing.T) {
	w := start(t)
	newPod(t, w, "stuck", func(p *corev1.Pod) { p.Spec.NodeName = "gone" })
	newQuota(t, w, "q", nil, "pods", "1")
	awaitUsed(t, w, "q", "pods", "1")
	err := w.Client.CoreV1().Pods(controltest.Namespace).Delete(t.Context(), "stuck", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)})
	if err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, w, "q", "pods", "0")
}

func TestEveryKindIsCounted(t *testing.T) {
	w := start(t)
	ctx := context.Background()
	maps := w.Client.CoreV1().ConfigMaps(controltest.Namespace)
	for _, name := range []string{"a", "b"} {
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	newQuota(t, w, "q", nil, "configmaps", "5", "count/configmaps", "5", "count/jobs.batch", "1", "services.nodeports", "3",
		"persistentvolumeclaims", "1", "count/unknown.example.com", "1", "count/nodes", "1")
	// What is not served, and what has no namespace, is not known.
	known := []string{"count/jobs.batch", "0", "services.nodeports", "0", "persistentvolumeclaims", "0"}
	awaitUsed(t, w, "q", append(known, "configmaps", "2", "count/configmaps", "2")...)
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, w, "q", append(known, "configmaps", "1", "count/configmaps", "1")...)
}

func TestChangedQuotaIsCountedAnew(t *testing.T) {
	w := start(t)
	newPod(t, w, "a", nil)
	newQuota(t, w, "q", nil, "pods", "1")
	awaitUsed(t, w, "q", "pods", "1")
	quotas := w.Client.CoreV1().ResourceQuotas(controltest.Namespace)
	q, err := quotas.Get(t.Context(), "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Spec.Hard = corev1.ResourceList{"cpu": apiresource.MustParse("1")}
	if _, err = quotas.Update(t.Context(), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, w, "q", "cpu", "100m")
	// A status that somebody has made up does not last.
	if q, err = quotas.Get(t.Context(), "q", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	q.Status.Hard = corev1.ResourceList{"cpu": apiresource.MustParse("9"), "pods": apiresource.MustParse("9")}
	q.Status.Used = nil
	if _, err = quotas.UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitUsed(t, w, "q", "cpu", "100m")
}

func TestCountWaitsForWhatWasCharged(t *testing.T) {
	c, key, now := newCharges(), cache.ObjectName{Namespace: "n", Name: "q"}, time.Now()
	if d := c.wait(key, true, now); d != 0 {
		t.Errorf("nothing was charged: waits %s", d)
	}
	c.charged(key, now)
	if d := c.wait(key, false, now); d != 0 {
		t.Errorf("a count that is not lower waits %s", d)
	}
	if d := c.wait(key, true, now.Add(settle/5)); d != settle*4/5 {
		t.Errorf("a lower count waits %s", d)
	}
	if d := c.wait(key, true, now.Add(settle)); d != 0 {
		t.Errorf("after its time it still waits %s", d)
	}
	for at := now; at.Before(now.Add(settleMost)); at = at.Add(settle / 2) {
		c.charged(key, at)
		if c.wait(key, true, at) == 0 {
			t.Fatalf("does not wait at %s", at.Sub(now))
		}
	}
	end := now.Add(settleMost)
	c.charged(key, end)
	if d := c.wait(key, true, end); d != 0 {
		t.Errorf("waits %s more, though it has for long enough", d)
	}
}
