package job

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// How a Job ends is in its status before the Pods that still run are deleted: who looks at those without it would count them as failed.
func TestEndIsWrittenFirst(t *testing.T) {
	pod := func(index string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: index, Finalizers: []string{batchv1.JobTrackingFinalizer},
			Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: index}}, Status: corev1.PodStatus{Phase: phase}}
	}
	for _, c := range []struct {
		what   string
		change func(*batchv1.Job)
		target batchv1.JobConditionType
	}{
		{"success", func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0")}}}
		}, batchv1.JobSuccessCriteriaMet},
		{"failure", func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
			j.Status.StartTime = &metav1.Time{Time: time.Now().Add(-time.Hour)}
		}, batchv1.JobFailureTarget},
	} {
		j := &batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](2), Parallelism: ptr.To[int32](2),
			CompletionMode: ptr.To(batchv1.IndexedCompletion)}}
		c.change(j)
		list := []*corev1.Pod{pod("0", corev1.PodSucceeded), pod("1", corev1.PodRunning)}
		first := decide(j, list, time.Now())
		if !isTrue(&first.status, c.target) || len(first.remove) > 0 {
			t.Errorf("%s: %d Pods are deleted with the status %+v", c.what, len(first.remove), first.status)
		}
		j.Status = first.status
		if then := decide(j, list, time.Now()); len(then.remove) != 1 || then.remove[0] != list[1] {
			t.Errorf("%s: %d Pods are deleted when it is known", c.what, len(then.remove))
		}
	}
}
