package evict

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/kubelet/pod"
)

func machine(t testing.TB) *Machine {
	dir := t.TempDir()
	return &Machine{RootDir: dir, Images: func(context.Context) (string, error) { return dir, nil }}
}

func TestObserve(t *testing.T) {
	m := machine(t)
	o, err := m.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Signal{MemoryAvailable, NodeFsAvailable, ImageFsAvailable, PIDAvailable} {
		if v := o[s]; v.Available <= 0 || v.Available > v.Capacity {
			t.Errorf("%s: %+v", s, v)
		}
	}
	if dedicated, err := m.Dedicated(t.Context()); err != nil || dedicated {
		t.Errorf("dedicated %v, %v", dedicated, err)
	}
	m.Images = func(context.Context) (string, error) { return "/proc", nil }
	if dedicated, err := m.Dedicated(t.Context()); err != nil || !dedicated {
		t.Errorf("another file system: dedicated %v, %v", dedicated, err)
	}
}

// BenchmarkObserve is what an idle node pays every ten seconds.
func BenchmarkObserve(b *testing.B) {
	m := machine(b)
	for b.Loop() {
		if _, err := m.Observe(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
	for _, bad := range []Threshold{{Signal: "x", Amount: Amount{Percent: 0.1}}, {Signal: MemoryAvailable}, {Signal: MemoryAvailable, Amount: Amount{Percent: 1.5}}, {Signal: MemoryAvailable, Amount: Amount{Percent: 0.5}, Grace: -1}} {
		if err := bad.validate(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	for i, want := range []string{"100Mi", "10%", "5%", "15%", "5%"} {
		if got := DefaultThresholds()[i].String(); got != want {
			t.Errorf("threshold %d is %s, want %s", i, got, want)
		}
	}
}

// blind cannot see the images' file system.
type blind struct{ *world }

func (b blind) Observe(ctx context.Context) (Observations, error) {
	o, _ := b.world.Observe(ctx)
	return o, errors.New("no images")
}

// TestRun shows that what can be observed is acted on although something else
// cannot, at the pace that the situation asks for, until the context ends.
func TestRun(t *testing.T) {
	w := &world{clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), left: Observations{MemoryAvailable: {Available: 1, Capacity: 1 << 30}}}
	w.pods = []*v1.Pod{makePod([]string{"a"}), makePod([]string{"b"})}
	evicted := make(chan types.UID, 10)
	m, err := New(Config{
		Observer: blind{w}, Stats: w, Pods: func() []*v1.Pod { return w.pods },
		Evict:    func(uid types.UID, _ pod.Eviction) error { evicted <- uid; return nil },
		Recorder: func() record.EventRecorder { return record.NewFakeRecorder(100) }, Changed: func() {}, Clock: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	if uid := <-evicted; uid != "a" {
		t.Errorf("evicted %s first", uid)
	}
	// Hurrying, the second goes half a minute later.
	for deadline := time.Now().Add(10 * time.Second); len(evicted) == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the second pod stays")
		}
		if w.clock.HasWaiters() {
			w.clock.Step(time.Second)
		}
	}
	if uid := <-evicted; uid != "b" {
		t.Errorf("evicted %s next", uid)
	}
	if took := w.clock.Since(time.Unix(1e9, 0)); took < settle || took > settle+6*time.Second {
		t.Errorf("the second was evicted after %s", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
