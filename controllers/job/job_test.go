package job_test

import (
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/job"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

type world struct {
	*controltest.World
	t *testing.T
}

func start(t *testing.T, change func(*batchv1.JobSpec)) *world {
	t.Helper()
	cw := controltest.Start(t, job.New)
	cw.Watch(t, cw.Informers.Core().V1().Pods().Informer())
	cw.Watch(t, cw.Informers.Batch().V1().Jobs().Informer())
	w := &world{cw, t}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: ns}, Spec: batchv1.JobSpec{Template: controltest.Template(nil)}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	change(&j.Spec)
	if _, err := w.Client.BatchV1().Jobs(ns).Create(t.Context(), j, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) get() *batchv1.Job {
	w.t.Helper()
	j, err := w.Client.BatchV1().Jobs(ns).Get(w.t.Context(), "work", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// running are the Pods that have not ended.
func (w *world) running() []corev1.Pod {
	w.t.Helper()
	return slices.DeleteFunc(w.Pods(w.t, batchv1.JobNameLabel+"=work"), func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

func (w *world) awaitRunning(n int) []corev1.Pod {
	w.t.Helper()
	var list []corev1.Pod
	w.Await(w.t, "Pods", func() bool { list = w.running(); return len(list) == n && int(w.get().Status.Active) == n })
	return list
}

func (w *world) awaitCondition(c batchv1.JobConditionType, reason string) *batchv1.Job {
	w.t.Helper()
	var j *batchv1.Job
	w.Await(w.t, string(c), func() bool {
		j = w.get()
		return slices.ContainsFunc(j.Status.Conditions, func(have batchv1.JobCondition) bool {
			return have.Type == c && have.Status == corev1.ConditionTrue && have.Reason == reason
		})
	})
	return j
}

// untracked fails unless no Pod holds the finalizer in the end.
func (w *world) untracked() {
	w.t.Helper()
	w.Await(w.t, "no finalizers", func() bool {
		return !slices.ContainsFunc(w.Pods(w.t, ""), func(p corev1.Pod) bool { return len(p.Finalizers) > 0 })
	})
}

func TestCompletes(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](3), ptr.To[int32](2) })
	first := w.awaitRunning(2)
	for _, p := range first {
		if !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
			t.Errorf("Pod %s has the finalizers %v", p.Name, p.Finalizers)
		}
	}
	w.SetPhase(t, &first[0], corev1.PodSucceeded)
	w.SetPhase(t, &first[1], corev1.PodSucceeded)
	last := w.awaitRunning(1)
	w.SetPhase(t, &last[0], corev1.PodSucceeded)
	j := w.awaitCondition(batchv1.JobComplete, "CompletionsReached")
	if s := j.Status; s.Succeeded != 3 || s.Failed != 0 || s.Active != 0 || s.CompletionTime == nil || s.StartTime == nil {
		t.Errorf("status %+v", s)
	}
	w.untracked()
	w.Event(t, "work", "Completed", "Job completed")
}

func TestIndexed(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism = ptr.To[int32](4), ptr.To[int32](4)
		s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	})
	list := w.awaitRunning(4)
	seen := map[string]bool{}
	for i := range list {
		p := &list[i]
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		seen[index] = true
		if p.Spec.Hostname != "work-"+index || p.Labels[batchv1.JobCompletionIndexAnnotation] != index || p.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
			t.Errorf("Pod of index %s: %+v", index, p.ObjectMeta)
		}
		if index != "3" {
			w.SetPhase(t, p, corev1.PodSucceeded)
		}
	}
	if len(seen) != 4 {
		t.Errorf("indexes %v", seen)
	}
	w.Await(t, "three indexes", func() bool { return w.get().Status.CompletedIndexes == "0-2" })
	rest := w.awaitRunning(1)
	w.SetPhase(t, &rest[0], corev1.PodSucceeded)
	if j := w.awaitCondition(batchv1.JobComplete, "CompletionsReached"); j.Status.Succeeded != 4 || j.Status.CompletedIndexes != "0-3" {
		t.Errorf("status %+v", j.Status)
	}
	w.untracked()
}

func TestBackoffLimit(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Parallelism, s.Completions = ptr.To[int32](0), ptr.To[int32](2), ptr.To[int32](2)
	})
	list := w.awaitRunning(2)
	w.Kubelet(t, "nobody=here")
	w.SetPhase(t, &list[0], corev1.PodFailed)
	j := w.awaitCondition(batchv1.JobFailed, "BackoffLimitExceeded")
	if j.Status.Failed != 2 || j.Status.Active != 0 {
		t.Errorf("status %+v", j.Status)
	}
	w.untracked()
}

func TestFailurePolicy(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:      batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	})
	p := w.awaitRunning(1)[0]
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 42}}}}
	w.SetPhase(t, &p, corev1.PodFailed)
	j := w.awaitCondition(batchv1.JobFailed, "PodFailurePolicy")
	want := "Container main for pod default/" + p.Name + " failed with exit code 42 matching FailJob rule at index 0"
	if m := j.Status.Conditions[0].Message; m != want {
		t.Errorf("message %q, want %q", m, want)
	}
}

func TestPerIndexAndSuccessPolicy(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism = ptr.To[int32](3), ptr.To[int32](3)
		s.CompletionMode, s.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](0)
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1")}}}
	})
	list := w.awaitRunning(3)
	at := func(index string) *corev1.Pod {
		i := slices.IndexFunc(list, func(p corev1.Pod) bool { return p.Annotations[batchv1.JobCompletionIndexAnnotation] == index })
		return &list[i]
	}
	w.SetPhase(t, at("0"), corev1.PodFailed)
	w.Await(t, "a failed index", func() bool { return ptr.Deref(w.get().Status.FailedIndexes, "") == "0" })
	w.SetPhase(t, at("1"), corev1.PodSucceeded)
	j := w.awaitCondition(batchv1.JobComplete, "SuccessPolicy")
	if j.Status.CompletedIndexes != "1" || j.Status.Active != 0 {
		t.Errorf("status %+v", j.Status)
	}
	w.untracked()
}

func TestSuspendAndDeadline(t *testing.T) {
	w := start(t, func(s *batchv1.JobSpec) { s.Suspend, s.ActiveDeadlineSeconds = ptr.To(true), ptr.To[int64](1) })
	w.awaitCondition(batchv1.JobSuspended, "JobSuspended")
	if n := len(w.running()); n != 0 {
		t.Errorf("a suspended Job has %d Pods", n)
	}
	if _, err := w.Client.BatchV1().Jobs(ns).Patch(t.Context(), "work", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.awaitCondition(batchv1.JobFailed, "DeadlineExceeded")
	w.untracked()
}

func TestGoneJobLetsPodsGo(t *testing.T) {
	w := start(t, func(*batchv1.JobSpec) {})
	w.awaitRunning(1)
	now := metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
	if err := w.Client.BatchV1().Jobs(ns).Delete(t.Context(), "work", now); err != nil {
		t.Fatal(err)
	}
	w.untracked()
}
