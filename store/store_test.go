package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/store/disk"
)

func pod(name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func podKey(name string) string { return "/pods/ns/" + name }

func create(t testing.TB, s storage.Interface, p *example.Pod, ttl uint64) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(context.Background(), podKey(p.Name), p, out, ttl); err != nil {
		t.Fatal(err)
	}
	return out
}

// annotate writes the pod with another annotation.
func annotate(t testing.TB, s storage.Interface, name, text string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := s.GuaranteedUpdate(context.Background(), podKey(name), out, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			p := obj.(*example.Pod)
			p.Annotations = map[string]string{"a": text}
			return p, nil
		}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func list(t testing.TB, s storage.Interface, opts storage.ListOptions) *example.PodList {
	t.Helper()
	opts.Recursive = true
	if opts.Predicate.Label == nil {
		limit, token := opts.Predicate.Limit, opts.Predicate.Continue
		opts.Predicate = storage.Everything
		opts.Predicate.Limit, opts.Predicate.Continue = limit, token
	}
	out := &example.PodList{}
	if err := s.GetList(context.Background(), "/pods/", opts, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestListLimitAtZero(t *testing.T) {
	_, s := newSuite(t)
	for i := range 5 {
		create(t, s, pod(fmt.Sprint(i)), 0)
	}
	opts := storage.ListOptions{ResourceVersion: "0", Predicate: storage.SelectionPredicate{Limit: 2}}
	if l := list(t, s, opts); len(l.Items) != 5 || l.Continue != "" {
		t.Errorf("list at 0 with a limit: %d items, continue %q", len(l.Items), l.Continue)
	}
	opts.ResourceVersion = ""
	if l := list(t, s, opts); len(l.Items) != 2 || l.Continue == "" || *l.RemainingItemCount != 3 {
		t.Errorf("list with a limit: %d items, continue %q", len(l.Items), l.Continue)
	}
}

// TestPagesAreConsistent changes everything between the pages of a list.
func TestPagesAreConsistent(t *testing.T) {
	_, s := newSuite(t)
	for i := range 10 {
		create(t, s, pod(fmt.Sprintf("p%d", i)), 0)
	}
	var names []string
	opts := storage.ListOptions{Predicate: storage.SelectionPredicate{Limit: 3}}
	first := ""
	for {
		l := list(t, s, opts)
		if first == "" {
			first = l.ResourceVersion
		}
		if l.ResourceVersion != first {
			t.Fatalf("page at %s, first at %s", l.ResourceVersion, first)
		}
		for _, p := range l.Items {
			if len(p.Annotations) > 0 {
				t.Errorf("%s is from a later revision", p.Name)
			}
			names = append(names, p.Name)
		}
		if l.Continue == "" {
			break
		}
		opts.Predicate.Continue = l.Continue
		for i := range 10 {
			if err := s.Delete(t.Context(), podKey(fmt.Sprintf("p%d", i)), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			create(t, s, pod(fmt.Sprintf("p%d", i)), 0)
			annotate(t, s, fmt.Sprintf("p%d", i), l.Continue)
		}
		create(t, s, pod("p5x"+fmt.Sprint(len(names))), 0)
	}
	if got := strings.Join(names, " "); got != "p0 p1 p2 p3 p4 p5 p6 p7 p8 p9" {
		t.Errorf("the pages together: %s", got)
	}
}

func TestObjectTooLarge(t *testing.T) {
	_, s := newSuite(t)
	p := pod("large")
	p.Annotations = map[string]string{"a": strings.Repeat("x", 1536<<10)}
	err := s.Create(t.Context(), podKey("large"), p, nil, 0)
	if !apierrors.IsRequestEntityTooLargeError(err) || !strings.Contains(err.Error(), "etcdserver: request is too large") {
		t.Errorf("Create of 1.5 MiB: %v", err)
	}
}

// TestLoans checks that what a consumer does to the objects it gets is not seen by others.
func TestLoans(t *testing.T) {
	_, s := newSuite(t)
	one, two := startWatch(t, s, "0", nil), startWatch(t, s, "0", nil)
	out := create(t, s, pod("p"), 0)
	mark := func(p *example.Pod) {
		p.Kind, p.ResourceVersion, p.Annotations = "Changed", "1", map[string]string{"changed": "yes"}
	}
	mark(next(t, one).Object.(*example.Pod))
	l := list(t, s, storage.ListOptions{})
	mark(&l.Items[0])
	got := &example.Pod{}
	if err := s.Get(t.Context(), podKey("p"), storage.GetOptions{}, got); err != nil {
		t.Fatal(err)
	}
	mark(got)
	for name, p := range map[string]*example.Pod{
		"the other watcher": next(t, two).Object.(*example.Pod),
		"a later list":      &list(t, s, storage.ListOptions{}).Items[0],
		"the writer":        out,
	} {
		if p.Kind != "" || p.ResourceVersion != out.ResourceVersion || p.Annotations != nil {
			t.Errorf("%s sees the change: %+v", name, p)
		}
	}
}

func TestLoanOfUnstructured(t *testing.T) {
	shared := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "x"}}}
	l := loan(shared).(*unstructured.Unstructured)
	l.SetResourceVersion("7")
	l.SetKind("Foo")
	if shared.GetResourceVersion() != "" || shared.GetKind() != "" {
		t.Errorf("the shared object has changed: %v", shared)
	}
}

// armedClock tells when a timer has been set.
type armedClock struct {
	*testingclock.FakeClock
	armed chan time.Duration
}

func (c *armedClock) NewTimer(d time.Duration) clock.Timer {
	t := c.FakeClock.NewTimer(d)
	c.armed <- d
	return t
}

func TestExpiryIsDurable(t *testing.T) {
	fs := vfs.NewMem()
	clock := &armedClock{testingclock.NewFakeClock(time.Unix(1000, 0)), make(chan time.Duration, 16)}
	use := func(c *Config, _ *ResourceConfig) { c.FS, c.Clock = fs, clock }
	_, s := newSuite(t, use)
	create(t, s, pod("mortal"), 60)
	kept := create(t, s, pod("renewed"), 60)
	annotate(t, s, "renewed", "for ever: no time to live was given")
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = newSuite(t, use)
	w := startWatch(t, s, "0", func(o *storage.ListOptions) { o.ResourceVersion = fmt.Sprint(s.store.Revision()) })
	for in := range clock.armed {
		if in == time.Minute && s.store.nextExpiry.Load() == time.Unix(1060, 0).UnixMilli() {
			break
		}
	}
	clock.Step(59 * time.Second)
	if n := len(list(t, s, storage.ListOptions{}).Items); n != 2 {
		t.Errorf("%d objects before the time has come", n)
	}
	clock.Step(2 * time.Second)
	if e := next(t, w); e.Type != watch.Deleted || e.Object.(*example.Pod).Name != "mortal" {
		t.Errorf("got %v", e)
	}
	if l := list(t, s, storage.ListOptions{}); len(l.Items) != 1 || l.Items[0].UID != kept.UID {
		t.Errorf("left: %v", l.Items)
	}
}

func TestReopen(t *testing.T) {
	fs := vfs.NewMem()
	use := func(c *Config, _ *ResourceConfig) { c.FS = fs }
	_, s := newSuite(t, use)
	create(t, s, pod("gone"), 0)
	out := create(t, s, pod("p"), 0)
	if err := s.Delete(t.Context(), podKey("gone"), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	last := s.store.Revision()
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), podKey("late"), pod("late"), nil, 0); !strings.Contains(fmt.Sprint(err), errClosed.Error()) {
		t.Errorf("Create in a closed store: %v", err)
	}
	if err := s.ReadinessCheck(); !errors.Is(err, storage.ErrStorageNotReady) {
		t.Errorf("ReadinessCheck of a closed store: %v", err)
	}
	_, s = newSuite(t, use)
	l := list(t, s, storage.ListOptions{})
	if l.ResourceVersion != fmt.Sprint(last) || len(l.Items) != 1 || l.Items[0].ResourceVersion != out.ResourceVersion {
		t.Errorf("reopened: %v at %s, want one at %d", l.Items, l.ResourceVersion, last)
	}
	// A client that had seen everything goes on; one that had not lists again.
	w := startWatch(t, s, fmt.Sprint(last), nil)
	create(t, s, pod("q"), 0)
	if e := next(t, w); e.Type != watch.Added {
		t.Errorf("watch across a restart: %v", e)
	}
	if e := next(t, startWatch(t, s, out.ResourceVersion, nil)); e.Type != watch.Error {
		t.Errorf("watch of what happened before a restart: %v", e)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	openStore(t, Config{Dir: dir, FS: vfs.Default})
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("second Open: %v", err)
	}
}

// full is a file system that is.
type full struct{ vfs.FS }

func (full) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 40 << 20, TotalBytes: 1 << 30}, nil
}

// TestDiskFull checks that writes fail with a clear error, that reads and deletions go on, and that a batch of both does
// what can be done.
func TestDiskFull(t *testing.T) {
	fs := vfs.NewMem()
	_, s := newSuite(t, func(c *Config, _ *ResourceConfig) { c.FS = fs })
	for i := range 8 {
		create(t, s, pod(fmt.Sprint(i)), 0)
	}
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = newSuite(t, func(c *Config, _ *ResourceConfig) { c.FS = full{fs} })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprint(i)
			if err := s.Delete(context.Background(), podKey(name), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				t.Errorf("Delete on a full disk: %v", err)
			}
		})
		wg.Go(func() {
			name := fmt.Sprint("new", i)
			err := s.Create(context.Background(), podKey(name), pod(name), nil, 0)
			if !storage.IsInternalError(err) || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("Create on a full disk: %v", err)
			}
		})
	}
	wg.Wait()
	if l := list(t, s, storage.ListOptions{}); len(l.Items) != 0 {
		t.Errorf("left: %d", len(l.Items))
	}
}

// breakable is a file system on which nothing can be written once it is broken.
func breakable(broken *atomic.Bool) vfs.FS {
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind == errorfs.OpFileWrite {
			return syscall.EIO
		}
		return nil
	}))
}

// TestDiskFails checks that after a write to disk has failed the store says so, writes fail and reads go on.
func TestDiskFails(t *testing.T) {
	var broken atomic.Bool
	_, s := newSuite(t, func(c *Config, _ *ResourceConfig) { c.FS = breakable(&broken) })
	before := create(t, s, pod("before"), 0)
	broken.Store(true)
	for range 2 {
		err := s.Create(t.Context(), podKey("after"), pod("after"), nil, 0)
		if !storage.IsInternalError(err) || !errors.Is(err, disk.ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("Create on a broken disk: %v", err)
		}
	}
	if err := s.ReadinessCheck(); !errors.Is(err, storage.ErrStorageNotReady) {
		t.Errorf("ReadinessCheck on a broken disk: %v", err)
	}
	l := list(t, s, storage.ListOptions{})
	if len(l.Items) != 1 || l.ResourceVersion != before.ResourceVersion {
		t.Errorf("the store shows what it has not acknowledged: %v at %s", l.Items, l.ResourceVersion)
	}
	// What it holds can be copied from memory, to be put elsewhere.
	whole := s.store.Snapshot()
	if b := copyOf(t, whole); whole.Len() != 1 || !bytes.Contains(b, []byte("/pods/ns/before")) {
		t.Errorf("the copy is %q", b)
	}
}

// TestCrash crashes the store while several writers write, and checks on what the crash leaves that everything
// acknowledged is there as it was last acknowledged or newer, and that the revision has not gone back.
func TestCrash(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			fs := vfs.NewCrashableMem()
			_, s := newSuite(t, func(c *Config, _ *ResourceConfig) { c.FS = fs })
			var mu sync.Mutex
			acknowledged := map[string]int{}
			var wg sync.WaitGroup
			enough := make(chan struct{}, 8)
			for w := range 8 {
				name := fmt.Sprint("p", w)
				create(t, s, pod(name), 0)
				wg.Go(func() {
					for i := range 120 {
						annotate(t, s, name, fmt.Sprint(i))
						mu.Lock()
						acknowledged[name] = i
						mu.Unlock()
						if i == 20+w*10 {
							enough <- struct{}{}
						}
					}
				})
			}
			<-enough
			mu.Lock()
			want := make(map[string]int, len(acknowledged))
			for k, v := range acknowledged {
				want[k] = v
			}
			mu.Unlock()
			rev := s.store.Revision()
			left := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			wg.Wait()
			_, after := newSuite(t, func(c *Config, _ *ResourceConfig) { c.FS = left })
			if got := after.store.Revision(); got < rev {
				t.Errorf("revision %d after the crash, %d before", got, rev)
			}
			for _, p := range list(t, after, storage.ListOptions{}).Items {
				var got int
				if _, err := fmt.Sscan(p.Annotations["a"], &got); err != nil && want[p.Name] > 0 || got < want[p.Name] {
					t.Errorf("%s is at %q, acknowledged %d", p.Name, p.Annotations["a"], want[p.Name])
				}
			}
		})
	}
}

// TestUnstructured stores objects that are maps, as custom resources are.
func TestUnstructured(t *testing.T) {
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Foo"}
	_, s := newSuite(t, func(_ *Config, rc *ResourceConfig) {
		rc.Codec, rc.Transformer = unstructured.UnstructuredJSONScheme, nil
		rc.New = func() runtime.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(gvk)
			return u
		}
	})
	w := startWatch(t, s, "0", nil)
	foo := s.coder.newFunc().(*unstructured.Unstructured)
	foo.SetName("foo")
	out := &unstructured.Unstructured{}
	if err := s.Create(t.Context(), podKey("foo"), foo, out, 0); err != nil {
		t.Fatal(err)
	}
	seen := next(t, w).Object.(*unstructured.Unstructured)
	seen.SetAnnotations(map[string]string{"changed": "yes"})
	err := s.GuaranteedUpdate(t.Context(), podKey("foo"), out, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			u := obj.(*unstructured.Unstructured)
			return u, unstructured.SetNestedField(u.Object, "x", "spec", "a")
		}), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &unstructured.UnstructuredList{}
	l.SetAPIVersion("example.com/v1")
	if err := s.GetList(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, l); err != nil {
		t.Fatal(err)
	}
	if len(l.Items) != 1 || l.GetResourceVersion() != out.GetResourceVersion() {
		t.Fatalf("list: %v, want one at %s", l, out.GetResourceVersion())
	}
	got := next(t, w).Object.(*unstructured.Unstructured)
	for name, u := range map[string]*unstructured.Unstructured{"list": &l.Items[0], "watch": got, "update": out} {
		a, _, _ := unstructured.NestedString(u.Object, "spec", "a")
		if a != "x" || u.GetAnnotations() != nil || u.GetResourceVersion() != out.GetResourceVersion() || u.GroupVersionKind() != gvk {
			t.Errorf("%s: %v", name, u.Object)
		}
	}
}
