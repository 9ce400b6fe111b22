package namespace_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/namespace"
	"github.com/peapod/peapod/test/controltest"
)

// TestPodsGoFirst: what Pods may use until their end stays as long as there is one.
func TestPodsGoFirst(t *testing.T) {
	w := controltest.Start(t, namespace.New)
	w.Watch(t, w.Informers.Core().V1().Namespaces().Informer())
	const ns = "doomed"
	ctx, client := t.Context(), w.Client.CoreV1()
	if _, err := client.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "used"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Finalizers: []string{"example.com/wait"}}, Spec: controltest.Template(nil).Spec}
	if _, err := client.Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the namespace waits for its Pod", func() bool {
		n, err := client.Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue &&
				c.Message == "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances"
		})
	})
	if p, err := client.Pods(ns).Get(ctx, "p", metav1.GetOptions{}); err != nil || p.DeletionTimestamp == nil {
		t.Errorf("the Pod is %v, %v", p, err)
	}
	if _, err := client.ConfigMaps(ns).Get(ctx, "used", metav1.GetOptions{}); err != nil {
		t.Errorf("the Pod's config map: %v", err)
	}
	if _, err := client.Pods(ns).Patch(ctx, "p", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the namespace goes", func() bool {
		_, err := client.Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
