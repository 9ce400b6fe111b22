package apiserver_test

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/store/etcd"
)

// awaited is how long what must happen may take.
const awaited = time.Minute

// sharer is a client as informers within the process have it, in the given groups.
func sharer(t *testing.T, s *servertest.Server, groups ...string) kubernetes.Interface {
	t.Helper()
	return must(inprocess.NewClientset(s.Transport.Config(&user.DefaultInfo{Name: "informer", Groups: groups})))(t)
}

// fromStart are the options with which informers watch.
func fromStart() metav1.ListOptions {
	return metav1.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true}
}

// eventsOf returns the next event of a watch by each call, which fails where it ends.
func eventsOf(t testing.TB, w watch.Interface, err error) func() watch.Event {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return func() watch.Event {
		t.Helper()
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch has ended")
			}
			return e
		case <-time.After(awaited):
			t.Fatal("no event")
		}
		panic("unreachable")
	}
}

// same says whether two config maps have their data in one place.
func same(a, b watch.Event) bool {
	return reflect.ValueOf(a.Object.(*corev1.ConfigMap).Data).Pointer() == reflect.ValueOf(b.Object.(*corev1.ConfigMap).Data).Pointer()
}

// Watchers within the process get the same objects, whose first level is each one's own; they are what the network is sent, and so is
// everything about the watch.
func TestWatchersShareObjects(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	maps := c.CoreV1().ConfigMaps("default")
	create := func(name string) {
		t.Helper()
		must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"is": name}},
			Data: map[string]string{"k": "v"}}, metav1.CreateOptions{}))(t)
	}
	create("a")
	create("b")
	start := func(c kubernetes.Interface, change func(*metav1.ListOptions)) func() watch.Event {
		t.Helper()
		o := fromStart()
		if change != nil {
			change(&o)
		}
		w, err := c.CoreV1().ConfigMaps("default").Watch(ctx, o)
		return eventsOf(t, w, err)
	}
	one, two, network := start(sharer(t, s), nil), start(sharer(t, s), nil), start(c, nil)
	third := start(sharer(t, s), func(o *metav1.ListOptions) { o.LabelSelector, o.FieldSelector = "is=c", "metadata.name=c" })
	compare := func(what string, kind watch.EventType, shared bool) watch.Event {
		t.Helper()
		a, b, n := one(), two(), network()
		if a.Type != kind || !reflect.DeepEqual(a, n) || !reflect.DeepEqual(b, n) {
			t.Errorf("%s: two within the process see %+v and %+v, the network %+v", what, a, b, n)
		}
		if shared && (!same(a, b) || same(a, n)) {
			t.Errorf("%s: the objects are not shared", what)
		}
		// An informer may do this to what it has got.
		a.Object.(*corev1.ConfigMap).ManagedFields, a.Object.(*corev1.ConfigMap).ResourceVersion = nil, "0"
		if b.Object.(*corev1.ConfigMap).ResourceVersion == "0" || kind != watch.Bookmark && b.Object.(*corev1.ConfigMap).ManagedFields == nil {
			t.Errorf("%s: the metadata is shared", what)
		}
		return b
	}
	compare("an object that was there", watch.Added, true)
	compare("another", watch.Added, true)
	for _, e := range []watch.Event{compare("the end of those", watch.Bookmark, false), third()} {
		if e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
			t.Errorf("the objects that were there end with %+v", e)
		}
	}
	create("c")
	if e := compare("an object that is made", watch.Added, true); !same(e, third()) {
		t.Error("who selects does not share")
	}
	must(maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"more":"x"}}`), metav1.PatchOptions{}))(t)
	compare("a change", watch.Modified, true)
	if err := maps.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := compare("a deletion", watch.Deleted, true); !same(e, third()) {
		t.Error("who selects does not share")
	}
}

// Whoever changes a shared object, which is a fault, does not change what is stored, nor what the next write stores.
func TestSharedObjectsAreNotTheTruth(t *testing.T) {
	s := servertest.Start(t, nil)
	maps := s.Client(t).CoreV1().ConfigMaps("default")
	must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{}))(t)
	w, err := sharer(t, s).CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=m"})
	next := eventsOf(t, w, err)
	next().Object.(*corev1.ConfigMap).Data["k"] = "changed by mistake"
	patched := must(maps.Patch(ctx, "m", types.MergePatchType, []byte(`{"data":{"more":"x"}}`), metav1.PatchOptions{}))(t)
	seen := next().Object.(*corev1.ConfigMap)
	got := must(maps.Get(ctx, "m", metav1.GetOptions{}))(t)
	for _, m := range []*corev1.ConfigMap{patched, seen, got} {
		if m.Data["k"] != "v" || m.Data["more"] != "x" {
			t.Errorf("after the next write: %v", m.Data)
		}
	}
}

// What is asked for with a client that shares is allowed, refused and recorded as anything that comes in.
func TestSharingIsAuthorized(t *testing.T) {
	s := servertest.Start(t, nil)
	if _, err := sharer(t, s, servertest.Deny).CoreV1().Secrets("").Watch(ctx, fromStart()); !apierrors.IsForbidden(err) {
		t.Errorf("who may not watch gets %v", err)
	}
	who := s.Transport.Config(&user.DefaultInfo{Name: "informer", Groups: []string{servertest.Deny}})
	if _, err := must(inprocess.NewMetadata(who))(t).Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Watch(ctx, fromStart()); !apierrors.IsForbidden(err) {
		t.Errorf("who may not watch gets %v of metadata", err)
	}
	namespace(t, s.Client(t), "n")
	// Nobody gets it by asking, nor with a config that is not the transport's.
	code, header, body := do(t, s, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=1", "", "Accept", "application/vnd.peapod.shared,application/json")
	if kind := header.Get("Content-Type"); code != http.StatusOK || kind != "application/json" || !strings.HasPrefix(body, `{"type":"ADDED"`) {
		t.Errorf("the network got %d %q, %s", code, kind, body)
	}
	if _, err := inprocess.NewClientset(s.Config("admin")); err == nil {
		t.Error("a client over the network shares")
	}
}

// A shared watch ends when its time is up, when nobody wants it any more, when the server ends, and with 410 where it cannot begin.
func TestSharedWatchesEnd(t *testing.T) {
	s := servertest.Start(t, nil)
	c, maps := s.Client(t), sharer(t, s).CoreV1().ConfigMaps("default")
	ends := func(what string, w watch.Interface) {
		t.Helper()
		over := time.After(awaited)
		for {
			select {
			case e, ok := <-w.ResultChan():
				if !ok {
					return
				}
				if e.Type == watch.Error {
					t.Errorf("%s: %+v", what, e)
				}
			case <-over:
				t.Fatalf("%s: the watch goes on", what)
			}
		}
	}
	ends("time", must(maps.Watch(ctx, metav1.ListOptions{TimeoutSeconds: ptr.To(int64(1))}))(t))
	stopped := must(maps.Watch(ctx, metav1.ListOptions{}))(t)
	stopped.Stop()
	ends("Stop", stopped)
	short, cancel := context.WithCancel(ctx)
	canceled := must(maps.Watch(short, metav1.ListOptions{}))(t)
	cancel()
	ends("the caller's context", canceled)

	must(maps.Create(ctx, configMap("m"), metav1.CreateOptions{}))(t)
	old := must(maps.List(ctx, metav1.ListOptions{}))(t).ResourceVersion
	forget(t, s, c, "m")
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: old})
	if e := eventsOf(t, w, err)(); e.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("a forgotten revision: %+v", e)
	}
	if _, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "?"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a bad selector: %v", err)
	}
	last := must(maps.Watch(ctx, metav1.ListOptions{}))(t)
	s.Stop()
	ends("the server", last)
}

// A kind that is another version of what is stored is converted, so not shared, also for clients that share.
func TestAliasesAreNotShared(t *testing.T) {
	s := servertest.Start(t, nil)
	c, mine := s.Client(t), sharer(t, s)
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"},
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To(int32(70))}}}}}}
	stored := must(c.AutoscalingV2().HorizontalPodAutoscalers("default").Create(ctx, hpa, metav1.CreateOptions{}))(t)
	alias := must(c.AutoscalingV1().HorizontalPodAutoscalers("default").Get(ctx, "h", metav1.GetOptions{}))(t)
	w, err := mine.AutoscalingV1().HorizontalPodAutoscalers("default").Watch(ctx, metav1.ListOptions{})
	if got := eventsOf(t, w, err)().Object; !reflect.DeepEqual(got, alias) {
		t.Errorf("got %+v, want %+v", got, alias)
	}
	w, err = mine.AutoscalingV2().HorizontalPodAutoscalers("default").Watch(ctx, metav1.ListOptions{})
	if got := eventsOf(t, w, err)().Object; !reflect.DeepEqual(got, stored) {
		t.Errorf("got %+v, want %+v", got, stored)
	}
}

// Clients for metadata that share see what those over the network see.
func TestMetadataIsShared(t *testing.T) {
	s := servertest.Start(t, nil)
	maps := s.Client(t).CoreV1().ConfigMaps("default")
	must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{"k": "v"}}}, metav1.CreateOptions{}))(t)
	resource := corev1.SchemeGroupVersion.WithResource("configmaps")
	mine := must(inprocess.NewMetadata(s.Transport.Config(&user.DefaultInfo{Name: "informer"})))(t).Resource(resource)
	a, err := mine.Watch(ctx, fromStart())
	one := eventsOf(t, a, err)
	b, err := mine.Namespace("default").Watch(ctx, fromStart())
	two := eventsOf(t, b, err)
	n, err := must(metadata.NewForConfig(s.Config("admin")))(t).Resource(resource).Namespace("default").Watch(ctx, fromStart())
	network := eventsOf(t, n, err)
	for _, what := range []string{"added", "end"} {
		x, y, z := one(), two(), network()
		if !reflect.DeepEqual(x, z) || !reflect.DeepEqual(y, z) {
			t.Errorf("%s: two within the process see %+v and %+v, the network %+v", what, x, y, z)
		}
		labels := func(e watch.Event) uintptr {
			return reflect.ValueOf(e.Object.(*metav1.PartialObjectMetadata).Labels).Pointer()
		}
		if what == "added" && (labels(x) != labels(y) || labels(x) == labels(z)) {
			t.Error("the metadata is not shared")
		}
	}
	e, err := mine.Namespace("elsewhere").Watch(ctx, fromStart())
	if got := eventsOf(t, e, err)(); got.Type != watch.Bookmark {
		t.Errorf("another namespace has %+v", got)
	}
}

// The watch cache before etcd gives each its own copy; neither that nor several servers make a difference for who shares.
func TestSharingWithEtcd(t *testing.T) {
	st, err := etcd.Open(ctx, etcd.Config{Servers: testserver.RunEtcd(t, nil).Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s := servertest.Start(t, func(c *apiserver.Config) { c.Storage = st.Decorator() })
	c := s.Client(t)
	maps := c.CoreV1().ConfigMaps("default")
	must(maps.Create(ctx, configMap("a"), metav1.CreateOptions{}))(t)
	var watches []func() watch.Event
	for range 4 { // the cache wraps what it sends to more than three
		w, err := sharer(t, s).CoreV1().ConfigMaps("default").Watch(ctx, fromStart())
		watches = append(watches, eventsOf(t, w, err))
	}
	w, err := maps.Watch(ctx, fromStart())
	network := eventsOf(t, w, err)
	compare := func(kind watch.EventType) {
		t.Helper()
		want := network()
		if want.Type != kind {
			t.Fatalf("got %+v, want %s", want, kind)
		}
		for _, next := range watches {
			if got := next(); !reflect.DeepEqual(got, want) {
				t.Errorf("within the process %+v, the network %+v", got, want)
			}
		}
	}
	compare(watch.Added)
	compare(watch.Bookmark)
	must(maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"more":"x"}}`), metav1.PatchOptions{}))(t)
	compare(watch.Modified)
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(watch.Deleted)
}
