package garbagecollector_test

import (
	"context"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/garbagecollector"
)

// start runs the collector on a real API server and returns a client of it.
func start(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, _ := startOn(t, servertest.Start(t, nil))
	return client
}

// startOn runs it on a server and returns what ends it, too.
func startOn(t *testing.T, server *servertest.Server) (client kubernetes.Interface, end func()) {
	t.Helper()
	config := server.Transport.Config(&user.DefaultInfo{Name: "gc", Groups: []string{user.SystemPrivilegedGroup}})
	client, err := inprocess.NewClientset(config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := inprocess.NewMetadata(config)
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := extensions.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	run, err := garbagecollector.New(engine.Deps{Client: client, Metadata: meta, Extensions: definitions})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return client, end
}

const ns = "default"

// put makes a config map that the given ones own.
func put(t *testing.T, c kubernetes.Interface, name string, block bool, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}}
	for _, o := range owners {
		cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: ptr.To(block)})
	}
	made, err := c.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func remove(t *testing.T, c kubernetes.Interface, name string, policy metav1.DeletionPropagation) {
	t.Helper()
	if err := c.CoreV1().ConfigMaps(ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
}

// await waits until ok is true of the config map, nil standing for none.
func await(t *testing.T, c kubernetes.Interface, name, what string, ok func(*corev1.ConfigMap) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	list, err := c.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	var now *corev1.ConfigMap
	if len(list.Items) > 0 {
		now = &list.Items[0]
	}
	if ok(now) {
		return
	}
	w, err := c.CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		now, _ = e.Object.(*corev1.ConfigMap)
		if e.Type == watch.Deleted {
			now = nil
		}
		if ok(now) {
			return
		}
	}
	t.Fatalf("%s: not %s in time", name, what)
}

func gone(cm *corev1.ConfigMap) bool { return cm == nil }

func TestDependentsFollowTheirOwner(t *testing.T) {
	c := start(t)
	owner := put(t, c, "owner", false)
	child := put(t, c, "child", false, owner)
	put(t, c, "grandchild", false, child)
	remove(t, c, "owner", metav1.DeletePropagationBackground)
	await(t, c, "grandchild", "deleted", gone)
	await(t, c, "child", "deleted", gone)
}

func TestForegroundDeletesDependentsFirst(t *testing.T) {
	c := start(t)
	owner := put(t, c, "owner", false)
	child := put(t, c, "child", true, owner)
	child.Finalizers = []string{"example.com/hold"}
	if _, err := c.CoreV1().ConfigMaps(ns).Update(t.Context(), child, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove(t, c, "owner", metav1.DeletePropagationForeground)
	await(t, c, "child", "being deleted", func(cm *corev1.ConfigMap) bool { return cm != nil && cm.DeletionTimestamp != nil })
	if _, err := c.CoreV1().ConfigMaps(ns).Get(t.Context(), "owner", metav1.GetOptions{}); err != nil {
		t.Fatalf("the owner did not wait for its dependent: %v", err)
	}
	if _, err := c.CoreV1().ConfigMaps(ns).Patch(t.Context(), "child", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, "owner", "deleted", gone)
	await(t, c, "child", "deleted", gone)
}

// TestOwnersInACircle: objects that own each other do not wait for each other.
func TestOwnersInACircle(t *testing.T) {
	c := start(t)
	first := put(t, c, "first", true)
	second := put(t, c, "second", true, first)
	third := put(t, c, "third", true, second)
	first.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: third.Name, UID: third.UID, BlockOwnerDeletion: ptr.To(true)}}
	if _, err := c.CoreV1().ConfigMaps(ns).Update(t.Context(), first, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove(t, c, "first", metav1.DeletePropagationForeground)
	for _, name := range []string{"first", "second", "third"} {
		await(t, c, name, "gone", gone)
	}
}

func TestOrphansAreLetGo(t *testing.T) {
	c := start(t)
	owner := put(t, c, "owner", false)
	put(t, c, "child", true, owner)
	await(t, c, "child", "there", func(cm *corev1.ConfigMap) bool { return cm != nil })
	remove(t, c, "owner", metav1.DeletePropagationOrphan)
	await(t, c, "owner", "deleted", gone)
	await(t, c, "child", "let go", func(cm *corev1.ConfigMap) bool {
		return cm != nil && len(cm.OwnerReferences) == 0 && cm.DeletionTimestamp == nil
	})
}

func TestOwnerThatNeverWas(t *testing.T) {
	c := start(t)
	live := put(t, c, "live", false)
	ghost := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ghost", UID: "no-such-uid"}}
	put(t, c, "orphan", false, ghost)
	put(t, c, "half", false, ghost, live)
	await(t, c, "orphan", "deleted", gone)
	await(t, c, "half", "left with its live owner", func(cm *corev1.ConfigMap) bool {
		return cm != nil && len(cm.OwnerReferences) == 1 && cm.OwnerReferences[0].UID == live.UID
	})
}

func TestOwnerOfUnknownKindIsLeftAlone(t *testing.T) {
	c := start(t)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: ns, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "example.com/v1", Kind: "Widget", Name: "w", UID: "w"}}}}
	if _, err := c.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// What is made after it and deleted shows that the collector has come past it.
	ghost := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ghost", UID: "no-such-uid"}}
	put(t, c, "marker", false, ghost)
	await(t, c, "marker", "deleted", gone)
	if _, err := c.CoreV1().ConfigMaps(ns).Get(t.Context(), "foreign", metav1.GetOptions{}); err != nil {
		t.Errorf("deleted although nothing is known of its owner's kind: %v", err)
	}
}
