package static

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// writes are the statuses that are published: the Pod's UID and phase.
type writes chan string

func (w writes) Set(p *v1.Pod, s v1.PodStatus, _ bool)        { w <- string(p.UID) + " " + string(s.Phase) }
func (w writes) Tried(_ context.Context, uid types.UID) error { return errors.New(string(uid)) }
func (w writes) Forget(uid types.UID)                         { w <- string(uid) + " forgotten" }
func (w writes) Observe(*v1.Pod)                              {}

func (w writes) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-w:
		if got != want {
			t.Fatalf("wrote %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("did not write %q", want)
	}
}

// holder has the names of static Pods that end.
type holder struct {
	known chan struct{}
	names chan types.NamespacedName // that were asked for
	here  atomic.Bool
}

func (h *holder) StaticKnown() <-chan struct{} { return h.known }
func (h *holder) HasStatic(name types.NamespacedName) bool {
	h.names <- name
	return h.here.Load()
}

type done struct{ c chan struct{} }

func (d done) Name() string          { return "" }
func (d done) Done() <-chan struct{} { return d.c }

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// newMirrors runs Mirrors over an API, which says what happens to its Pods.
func newMirrors(t *testing.T, h *holder, there ...runtime.Object) (*Mirrors, writes, *fake.Clientset) {
	client := fake.NewClientset(there...)
	n := 0
	client.PrependReactor("create", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		n++
		a.(ktesting.CreateAction).GetObject().(*v1.Pod).UID = types.UID("mirror" + string(rune('0'+n)))
		return false, nil, nil
	})
	w := make(writes, 100)
	m := NewMirrors(MirrorsConfig{NodeName: "n1", Client: client, Registered: closed(), Pods: h, Status: w, Node: func() (*v1.Node, error) {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}}, nil
	}})
	pods, err := client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		for e := range pods.ResultChan() {
			if p := e.Object.(*v1.Pod); e.Type == watch.Deleted {
				m.Gone(p)
			} else {
				m.Observe(p)
			}
		}
		ended <- nil
	}()
	go func() { ended <- m.Run(ctx, done{closed()}) }()
	t.Cleanup(func() {
		cancel()
		pods.Stop()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
	return m, w, client
}

func own(uid string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns", UID: types.UID(uid),
		Annotations: map[string]string{sourceAnnotation: sourceFile, hashAnnotation: uid}}, Spec: v1.PodSpec{NodeName: "n1"}}
}

func TestMirrorFollowsItsPod(t *testing.T) {
	m, w, client := newMirrors(t, &holder{known: closed(), names: make(chan types.NamespacedName, 10)})
	m.Set(own("u1"), v1.PodStatus{Phase: v1.PodPending}, false)
	w.want(t, "mirror1 Pending")
	m.Set(own("u1"), v1.PodStatus{Phase: v1.PodRunning}, false)
	w.want(t, "mirror1 Running")
	if err := m.Tried(t.Context(), own("u1")); err == nil || err.Error() != "mirror1" {
		t.Errorf("tried %v", err)
	}
	p, err := client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if o := p.OwnerReferences; len(o) != 1 || o[0].UID != "node" || o[0].Kind != "Node" || !*o[0].Controller || p.Annotations[mirrorAnnotation] != "u1" {
		t.Errorf("mirror %+v", p)
	}
	// Deleted by a user, whom it outlives.
	if err := client.CoreV1().Pods("ns").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.want(t, "mirror1 forgotten")
	w.want(t, "mirror2 Running")
	// The file changes: the old Pod is gone, then another one has a status.
	m.Forget(own("u1"))
	m.Set(own("u2"), v1.PodStatus{Phase: v1.PodPending}, false)
	w.want(t, "mirror2 forgotten")
	w.want(t, "mirror3 Pending")
	m.Forget(own("u2"))
	w.want(t, "mirror3 forgotten")
	if _, err := client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the mirror of a Pod that is gone: %v", err)
	}
}

// Status of other Pods passes.
func TestPodsOfTheAPIPass(t *testing.T) {
	m, w, _ := newMirrors(t, &holder{known: closed()})
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns", UID: "u1"}}
	m.Set(p, v1.PodStatus{Phase: v1.PodRunning}, false)
	w.want(t, "u1 Running")
	m.Forget(p)
	w.want(t, "u1 forgotten")
	select {
	case <-m.used:
		t.Error("work began for Pods that need none")
	default:
	}
}

// A mirror that an earlier process left goes if its Pod is not on the node, but not while that ends, or has not said anything yet.
func TestMirrorOfAnEarlierProcess(t *testing.T) {
	left := own("")
	left.Annotations = map[string]string{mirrorAnnotation: "u1"}
	left.UID = "left"
	h := &holder{known: make(chan struct{}), names: make(chan types.NamespacedName, 10)}
	h.here.Store(true)
	m, w, client := newMirrors(t, h, left)
	m.Observe(left)
	close(h.known)
	<-h.names
	if _, err := client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
		t.Errorf("the mirror of a Pod that ends: %v", err)
	}
	m.Set(own("u1"), v1.PodStatus{Phase: v1.PodRunning}, false)
	w.want(t, "left Running")
	h.here.Store(false)
	m.Forget(own("u1"))
	w.want(t, "left forgotten")
}

func TestSteps(t *testing.T) {
	now := metav1.Now()
	pod, ending, mirror, other, deleted := own("u1"), own("u1"), own("u1"), own("u2"), own("u1")
	ending.DeletionTimestamp, deleted.DeletionTimestamp = &now, &now
	for _, p := range []*v1.Pod{mirror, other, deleted} {
		p.Annotations[mirrorAnnotation] = p.Annotations[hashAnnotation]
	}
	failed := mirror.DeepCopy()
	failed.Status.Phase = v1.PodFailed
	for _, c := range []struct {
		what  string
		shown shown
		want  step
	}{
		{"nothing here", shown{}, nothing},
		{"no mirror", shown{pod: pod}, create},
		{"no mirror of one that ends", shown{pod: ending}, nothing},
		{"its mirror", shown{pod: pod, mirror: mirror}, nothing},
		{"another's mirror", shown{pod: pod, mirror: other}, remove},
		{"a mirror that is being deleted", shown{pod: pod, mirror: deleted}, remove},
		{"a mirror of none", shown{mirror: mirror}, drop},
		{"a mirror that says the end of one that runs", shown{pod: pod, mirror: failed}, remove},
		{"a mirror that says the end", shown{pod: pod, mirror: failed, status: v1.PodStatus{Phase: v1.PodFailed}}, nothing},
	} {
		if got := c.shown.step(); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}

// What the mirror says since when stays true over a restart.
func TestTimesOfTheMirrorStay(t *testing.T) {
	early, late := metav1.Unix(1, 0), metav1.Unix(2, 0)
	ready := func(status v1.ConditionStatus, at metav1.Time) v1.PodStatus {
		return v1.PodStatus{StartTime: &at, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: status, LastTransitionTime: at}}}
	}
	mirror := ready(v1.ConditionTrue, early)
	if got := since(ready(v1.ConditionTrue, late), &mirror); !got.StartTime.Equal(&early) || !got.Conditions[0].LastTransitionTime.Equal(&early) {
		t.Errorf("the same since %+v", got)
	}
	if got := since(ready(v1.ConditionFalse, late), &mirror); !got.Conditions[0].LastTransitionTime.Equal(&late) {
		t.Errorf("changed at %+v", got)
	}
}
