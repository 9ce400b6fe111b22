package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	testingclock "k8s.io/utils/clock/testing"
)

func startWatch(t testing.TB, s storage.Interface, rv string, change func(*storage.ListOptions)) watch.Interface {
	t.Helper()
	opts := storage.ListOptions{ResourceVersion: rv, Predicate: storage.Everything, Recursive: true}
	if change != nil {
		change(&opts)
	}
	w, err := s.Watch(t.Context(), "/pods/", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

// next returns the next event, and fails where the watch ends.
func next(t testing.TB, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch has ended")
		}
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
	}
	panic("unreachable")
}

// TestSlowWatcher leaves a watcher unread for longer than the history reaches: writers and other watchers do not notice,
// and it ends with the error that makes its client list again.
func TestSlowWatcher(t *testing.T) {
	_, s := newSuite(t, func(c *Config, _ *ResourceConfig) { c.HistoryEvents = 50 })
	first := create(t, s, pod("p"), 0)
	slow := startWatch(t, s, first.ResourceVersion, nil)
	fast := startWatch(t, s, first.ResourceVersion, nil)
	for i := range 300 {
		out := annotate(t, s, "p", fmt.Sprint(i))
		if e := next(t, fast); e.Object.(*example.Pod).ResourceVersion != out.ResourceVersion {
			t.Fatalf("event %d at %s, want %s", i, e.Object.(*example.Pod).ResourceVersion, out.ResourceVersion)
		}
	}
	seen, ended := 0, false
	for e := range slow.ResultChan() {
		if e.Type == watch.Error {
			if status := e.Object.(*metav1.Status); status.Reason != metav1.StatusReasonExpired || status.Code != 410 {
				t.Errorf("the slow watcher ends with %v", status)
			}
			ended = true
			continue
		}
		if want := fmt.Sprint(seen); ended || e.Object.(*example.Pod).Annotations["a"] != want {
			t.Fatalf("the slow watcher sees %v, want %s", e.Object.(*example.Pod).Annotations, want)
		}
		seen++
	}
	if !ended {
		t.Errorf("the slow watcher saw %d events and no error", seen)
	}
}

// TestQuietWatcherStays checks that a watcher which nothing concerns does not fall off the history.
func TestQuietWatcherStays(t *testing.T) {
	_, s := newSuite(t, func(c *Config, _ *ResourceConfig) { c.HistoryEvents = 10 })
	first := create(t, s, pod("busy"), 0)
	w, err := s.Watch(t.Context(), podKey("quiet"), storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 100 {
		annotate(t, s, "busy", fmt.Sprint(i))
	}
	create(t, s, pod("quiet"), 0)
	if e := next(t, w); e.Type != watch.Added {
		t.Errorf("got %v", e)
	}
}

func TestWatchAfterCompaction(t *testing.T) {
	ctx, s := newSuite(t)
	first := create(t, s, pod("p"), 0)
	last := annotate(t, s, "p", "x")
	s.compact(ctx, t, last.ResourceVersion)
	e := next(t, startWatch(t, s, first.ResourceVersion, nil))
	if status, ok := e.Object.(*metav1.Status); !ok || status.Code != 410 || !strings.HasPrefix(status.Message, "too old resource version: 2 (3)") {
		t.Errorf("watch of the compacted past: %v", e)
	}
}

// TestWatchOfAnotherHistory checks that who has seen what this store has not had, since it was put back from a backup, is told to list anew.
func TestWatchOfAnotherHistory(t *testing.T) {
	_, s := newSuite(t)
	create(t, s, pod("p"), 0)
	e := next(t, startWatch(t, s, "100", nil))
	if status, ok := e.Object.(*metav1.Status); !ok || status.Code != 410 || status.Reason != metav1.StatusReasonExpired || !strings.Contains(status.Message, "another history") {
		t.Errorf("watch from the future: %v", e)
	}
}

// TestCompactionSparesWatchers checks that a watcher which has seen everything goes on after a compaction.
func TestCompactionSparesWatchers(t *testing.T) {
	ctx, s := newSuite(t)
	first := create(t, s, pod("p"), 0)
	w := startWatch(t, s, first.ResourceVersion, nil)
	s.compact(ctx, t, fmt.Sprint(s.increaseRV(ctx, t)))
	create(t, s, pod("q"), 0)
	if e := next(t, w); e.Type != watch.Added {
		t.Errorf("got %v", e)
	}
}

// TestDestroy checks that watches end with the storage that they came through, and only they.
func TestDestroy(t *testing.T) {
	_, s := newSuite(t)
	config := storagebackend.NewDefaultConfig("/registry", testCodec()).ForResource(s.groupResource)
	made, destroy, err := s.store.Decorator()(config, "/pods", nil, s.coder.newFunc, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.store.New(ResourceConfig{PathPrefix: "/registry", ResourcePrefix: "/pods", Codec: testCodec(), New: s.coder.newFunc})
	if err != nil {
		t.Fatal(err)
	}
	ends, stays := startWatch(t, made, "0", nil), startWatch(t, other, "0", nil)
	destroy()
	if e, ok := <-ends.ResultChan(); ok {
		t.Errorf("the watch goes on with %v", e)
	}
	create(t, other, pod("p"), 0)
	if e := next(t, stays); e.Type != watch.Added {
		t.Errorf("got %v", e)
	}
	if v, _ := s.store.get("/registry/pods/ns/p"); v == nil {
		t.Error("the object is not where it should be")
	}
	if n := len(list(t, s, storage.ListOptions{}).Items); n != 0 {
		t.Errorf("another prefix shows %d objects", n)
	}
	w, err := made.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	for e := range w.ResultChan() {
		if e.Type != watch.Added {
			t.Errorf("a watch after Destroy shows %v", e)
		}
	}
}

// TestBookmarks checks that bookmarks come at the interval and just before the deadline, from one timer.
func TestBookmarks(t *testing.T) {
	clock := testingclock.NewFakeClock(time.Unix(999_960, 0))
	b := newBookmarker(clock, time.Minute)
	due := func(w *watcher) bool { return w.bookmarkDue.Swap(false) }
	plain, timed := &watcher{wake: make(chan struct{}, 1)}, &watcher{wake: make(chan struct{}, 1)}
	b.add(plain, time.Time{})
	b.add(timed, clock.Now().Add(30*time.Second))
	steps := []struct {
		at           int
		plain, timed bool
	}{{27, false, false}, {28, false, true}, {60, true, true}, {61, false, false}, {120, true, true}}
	start := clock.Now()
	for _, step := range steps {
		clock.SetTime(start.Add(time.Duration(step.at) * time.Second))
		if _, ok := b.ask(); !ok {
			t.Error("nothing is due")
		}
		if p, d := due(plain), due(timed); p != step.plain || d != step.timed {
			t.Errorf("at %d: %v, %v; want %v, %v", step.at, p, d, step.plain, step.timed)
		}
	}
	b.remove(plain)
	b.remove(timed)
	if wait, ok := b.ask(); ok {
		t.Errorf("the timer runs for nobody: %v", wait)
	}
}
