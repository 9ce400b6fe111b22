package job_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/job"
	"github.com/peapod/peapod/test/controltest"
)

// byHand is a controller whose keys the test works on.
type byHand struct{}

func (byHand) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// A Job whose informer is behind that of Pods does not know yet that it has counted a Pod, which is let go already: no Pod is made in
// its place.
func TestJobBehindItsPods(t *testing.T) {
	var sync func(context.Context, cache.ObjectName) error
	gate := new(gate)
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		if err := d.Informers.Batch().V1().Jobs().Informer().SetTransform(gate.pass); err != nil {
			return nil, err
		}
		c, err := job.New(d)
		sync = c.(*engine.Loop).Sync
		return byHand{}, err
	})
	t.Cleanup(gate.open) // before the informers are waited for
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Batch().V1().Jobs().Informer())
	pods, jobs := w.Informers.Core().V1().Pods().Lister().Pods(ns), w.Informers.Batch().V1().Jobs().Lister().Jobs(ns)
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: ns}, Spec: batchv1.JobSpec{
		Template: controltest.Template(nil), Completions: ptr.To[int32](2), Parallelism: ptr.To[int32](2)}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := w.Client.BatchV1().Jobs(ns).Create(t.Context(), j, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	key := cache.ObjectName{Namespace: ns, Name: "work"}
	step := func() *engine.Retry {
		t.Helper()
		err := sync(t.Context(), key)
		var again *engine.Retry
		if err != nil && !errors.As(err, &again) {
			t.Fatal(err)
		}
		return again
	}
	seen := func(what string, ok func(j *batchv1.Job, list []*corev1.Pod) bool) {
		t.Helper()
		w.Await(t, what, func() bool {
			j, err := jobs.Get("work")
			list, listErr := pods.List(labels.Everything())
			return err == nil && listErr == nil && ok(j, list)
		})
	}
	seen("the Job", func(*batchv1.Job, []*corev1.Pod) bool { return true })
	step()
	seen("its Pods", func(j *batchv1.Job, list []*corev1.Pod) bool { return j.Status.Active == 2 && len(list) == 2 })
	first := w.Pods(t, "")[0]
	w.SetPhase(t, &first, corev1.PodSucceeded)
	ended := func(want int) func(*batchv1.Job, []*corev1.Pod) bool {
		return func(_ *batchv1.Job, list []*corev1.Pod) bool {
			for _, p := range list {
				if p.Name == first.Name {
					return p.Status.Phase == corev1.PodSucceeded && len(p.Finalizers) == want
				}
			}
			return false
		}
	}
	seen("the first Pod's end", ended(1))
	gate.close()
	step()
	seen("the first Pod let go", ended(0))
	if step() == nil {
		t.Error("the Job is not looked at again")
	}
	if n := len(w.Pods(t, "")); n != 2 {
		t.Errorf("%d Pods were made", n)
	}
	gate.open()
	seen("the count", func(j *batchv1.Job, _ []*corev1.Pod) bool {
		return j.Status.UncountedTerminatedPods != nil && len(j.Status.UncountedTerminatedPods.Succeeded) == 1
	})
	step()
	if s := get(t, w).Status; s.Succeeded != 1 || s.Failed != 0 || s.Active != 1 {
		t.Errorf("status %+v", s)
	}
	if n := len(w.Pods(t, "")); n != 2 {
		t.Errorf("%d Pods were made", n)
	}
}

func get(t *testing.T, w *controltest.World) *batchv1.Job {
	t.Helper()
	j, err := w.Client.BatchV1().Jobs(ns).Get(t.Context(), "work", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// gate holds up an informer while it is closed.
type gate struct {
	mu     sync.Mutex
	closed bool
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
}

func (g *gate) open() {
	if g.closed {
		g.closed = false
		g.mu.Unlock()
	}
}

func (g *gate) pass(obj any) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return obj, nil
}
