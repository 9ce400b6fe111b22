package status

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// api is a fake API with one Pod, and what was asked of it.
type api struct {
	*fake.Clientset
	mu      sync.Mutex
	patches []string
	deletes []metav1.DeleteOptions
	asked   chan struct{}
	fail    int // so many patches fail first
}

func newAPI(p *v1.Pod) *api {
	a := &api{Clientset: fake.NewClientset(p), asked: make(chan struct{}, 100)}
	a.PrependReactor("patch", "pods", func(act ktesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		defer func() { a.asked <- struct{}{} }()
		if a.fail > 0 {
			a.fail--
			return true, nil, errors.New("try later")
		}
		a.patches = append(a.patches, string(act.(ktesting.PatchAction).GetPatch()))
		return false, nil, nil
	})
	a.PrependReactor("delete", "pods", func(act ktesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.deletes = append(a.deletes, act.(ktesting.DeleteAction).GetDeleteOptions())
		a.asked <- struct{}{}
		return false, nil, nil
	})
	return a
}

func (a *api) wait(t *testing.T) {
	t.Helper()
	select {
	case <-a.asked:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was written")
	}
}

func start(t *testing.T, a *api) *Writer {
	w := New(a, 2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func aPod() *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u1"}, Status: v1.PodStatus{Phase: v1.PodPending,
		Conditions: []v1.PodCondition{{Type: "example.com/gate", Status: v1.ConditionTrue}}}}
}

func TestPatchHoldsOnlyWhatChanged(t *testing.T) {
	p := aPod()
	a := newAPI(p)
	a.fail = 2
	w := start(t, a)
	want := *p.Status.DeepCopy()
	want.Phase = v1.PodRunning
	want.Conditions = append(want.Conditions, v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue})
	w.Set(p, want, false)
	for range 3 {
		a.wait(t)
	}
	var patch struct {
		Metadata map[string]any
		Status   map[string]any
	}
	if err := json.Unmarshal([]byte(a.patches[0]), &patch); err != nil {
		t.Fatal(err)
	}
	if patch.Metadata["uid"] != "u1" || patch.Status["phase"] != "Running" {
		t.Errorf("patch %s", a.patches[0])
	}
	if c := patch.Status["conditions"].([]any); len(c) != 1 || c[0].(map[string]any)["type"] != "Ready" {
		t.Errorf("patch touches foreign conditions: %s", a.patches[0])
	}
	w.Set(p, want, false) // the same again: nothing to write
	w.Set(p, func() v1.PodStatus { s := want; s.PodIP = "10.0.0.1"; return s }(), false)
	a.wait(t)
	if len(a.patches) != 2 {
		t.Errorf("patches %v", a.patches)
	}
}

func TestFinalStatusDeletes(t *testing.T) {
	p := aPod()
	a := newAPI(p)
	w := start(t, a)
	done := *p.Status.DeepCopy()
	done.Phase = v1.PodFailed
	w.Set(p, done, true) // final, but nobody deletes it: it stays
	a.wait(t)
	if len(a.deletes) != 0 {
		t.Fatal("deleted a Pod that nobody deletes")
	}
	now := metav1.Now()
	going := p.DeepCopy()
	going.DeletionTimestamp, going.Status = &now, done
	w.Set(going, done, true)
	a.wait(t)
	if d := a.deletes; len(d) != 1 || *d[0].GracePeriodSeconds != 0 || *d[0].Preconditions.UID != "u1" {
		t.Errorf("deletions %+v", d)
	}
}

func TestNeverBackFromTheEnd(t *testing.T) {
	p := aPod()
	p.Status.Phase = v1.PodSucceeded
	a := newAPI(p)
	w := New(a, 1, nil)
	back := *p.Status.DeepCopy()
	back.Phase = v1.PodRunning
	w.Set(p, back, false)
	if err := w.write(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if len(a.patches) != 0 {
		t.Errorf("patched %v", a.patches)
	}
}

// Tried waits for the write of what was set before, whatever comes of it, and for nothing if all is written.
func TestTriedWaitsForTheWrite(t *testing.T) {
	p := aPod()
	a := newAPI(p)
	a.fail = 1
	began, gate := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	a.PrependReactor("patch", "pods", func(ktesting.Action) (bool, runtime.Object, error) {
		if held.CompareAndSwap(false, true) {
			close(began)
			<-gate
		}
		return false, nil, nil
	})
	w := start(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.Tried(ctx, p.UID); err != nil { // nothing was ever set
		t.Fatal(err)
	}
	running := *p.Status.DeepCopy()
	running.Phase = v1.PodRunning
	w.Set(p, running, false)
	<-began
	short, over := context.WithCancel(ctx)
	over()
	if err := w.Tried(short, p.UID); !errors.Is(err, context.Canceled) {
		t.Errorf("while the write was under way: %v", err)
	}
	var open atomic.Bool
	go func() {
		open.Store(true)
		close(gate)
	}()
	if err := w.Tried(ctx, p.UID); err != nil { // that write fails
		t.Fatal(err)
	}
	if !open.Load() {
		t.Error("did not wait for the write")
	}
	running.PodIP = "10.0.0.1"
	w.Set(p, running, false)
	for range 2 { // written, and then nothing more to wait for
		if err := w.Tried(ctx, p.UID); err != nil {
			t.Fatal(err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.patches); n == 0 || !strings.Contains(a.patches[n-1], "10.0.0.1") {
		t.Errorf("patches %q", a.patches)
	}
}
