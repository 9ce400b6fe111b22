package apiserver_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/servertest"
)

// forget changes a config map a few times and has the store forget all but the last revision.
func forget(t *testing.T, s *servertest.Server, c kubernetes.Interface, name string) *corev1.ConfigMap {
	t.Helper()
	var m *corev1.ConfigMap
	for i := range 3 {
		var err error
		m, err = c.CoreV1().ConfigMaps("default").Patch(t.Context(), name, "application/merge-patch+json", fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Store.Compact(s.Store.Revision()); err != nil {
		t.Fatal(err)
	}
	return m
}

// Who asks for a revision that has been forgotten is told 410, in the words from which clients know what to do.
func TestForgottenRevisions(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	maps := c.CoreV1().ConfigMaps("default")
	for _, name := range []string{"a", "b", "c"} {
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := maps.List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil || page.Continue == "" {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	old := page.ResourceVersion
	forget(t, s, c, "a")

	expired := func(what string, err error, text string) {
		t.Helper()
		if !apierrors.IsResourceExpired(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got error %v, want 410 Expired with %q", what, err, text)
		}
	}
	w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: old})
	if err == nil {
		defer w.Stop()
		if e := <-w.ResultChan(); e.Type == watch.Error {
			err = apierrors.FromObject(e.Object)
		}
	}
	expired("watch", err, "too old resource version: "+old)
	_, err = maps.List(t.Context(), metav1.ListOptions{ResourceVersion: old, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	expired("list of exactly that", err, "The resourceVersion for the provided list is too old")
	_, err = maps.List(t.Context(), metav1.ListOptions{Limit: 1, Continue: page.Continue})
	expired("next page", err, "The provided continue parameter is too old to display a consistent list result")
	// The answer has a token with which the list goes on inconsistently.
	token := err.(apierrors.APIStatus).Status().ListMeta.Continue
	rest, err := maps.List(t.Context(), metav1.ListOptions{Continue: token})
	if err != nil || len(rest.Items) != 2 || rest.Items[0].Name != "b" {
		t.Errorf("the rest: %+v, %v", rest, err)
	}
}

// An informer whose watch is cut, and whose revision is forgotten before it watches again, lists anew.
func TestInformerListsAnew(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	maps := c.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var current watch.Interface
	var cut, refused bool
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			mu.Lock()
			defer mu.Unlock()
			if cut && !refused {
				refused = true
				forget(t, s, c, "a")
			}
			w, err := maps.Watch(ctx, o)
			current = w
			return w, err
		},
	}
	values := make(chan string, 100)
	tell := func(obj any) { values <- obj.(*corev1.ConfigMap).Data["n"] }
	informer := cache.NewSharedInformer(lw, &corev1.ConfigMap{}, 0)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var done sync.WaitGroup
	done.Go(func() { informer.RunWithContext(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	for _, want := range []string{"", "2"} {
		for got := want + "?"; got != want; {
			select {
			case got = <-values:
			case <-ctx.Done():
				t.Fatalf("the informer does not learn of %q in time", want)
			}
		}
		mu.Lock()
		cut = true
		if current != nil {
			current.Stop()
		}
		mu.Unlock()
	}
	if !refused {
		t.Error("the informer did not watch again after its watch was cut")
	}
}
