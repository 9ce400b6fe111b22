// Package ttlafterfinished deletes finished Jobs once their time to live is over.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "ttl-after-finished-controller"

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	jobs := d.Informers.Batch().V1().Jobs()
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		j, err := jobs.Lister().Jobs(key.Namespace).Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read job: %w", err)
		}
		if left, ok := left(j, time.Now()); !ok {
			return nil
		} else if left > 0 {
			return &engine.Retry{After: left, Why: "the time to live"}
		}
		// The time to live may just have been raised.
		if j, err = d.Client.BatchV1().Jobs(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{}); err == nil {
			if left, ok := left(j, time.Now()); !ok || left > 0 {
				return nil // its event queues it
			}
			policy := metav1.DeletePropagationForeground
			err = d.Client.BatchV1().Jobs(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
				PropagationPolicy: &policy, Preconditions: metav1.NewUIDPreconditions(string(j.UID))})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete job: %w", err)
		}
		return nil
	}
	synced, err := jobs.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

// left is how long the Job is to be kept yet; ok is false where that is for ever, or not known yet.
func left(j *batchv1.Job, now time.Time) (d time.Duration, ok bool) {
	if j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now), true
		}
	}
	return 0, false
}
