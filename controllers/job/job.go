// Package job runs Jobs: it makes Pods until enough of them have succeeded, or too many have failed, and counts each end of
// a Pod exactly once. What to do is decided by a pure function (decide.go, finish.go).
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/claim"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "job-controller"

const (
	// workers is how many Jobs are worked on at once, as upstream's default.
	workers = 5
	// burst is how many Pods a Job makes or deletes at most before it looks again.
	burst = 500
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	jobs     batchlisters.JobLister
	pods     corelisters.PodLister
	control  *pods.Control
	loop     *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	jobs := d.Informers.Batch().V1().Jobs()
	control, err := pods.NewControl(d, kind, jobs.Informer())
	if err != nil {
		return nil, err
	}
	control.Finalizer = batchv1.JobTrackingFinalizer
	c := &controller{
		client: d.Client, recorder: d.Recorder, jobs: jobs.Lister(), pods: d.Informers.Core().V1().Pods().Lister(),
		control: control, loop: &engine.Loop{Name: Name, Workers: workers},
	}
	c.loop.Sync = c.sync
	mine, err := jobs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    engine.Object(c.loop),
		UpdateFunc: func(_, obj any) { engine.Object(c.loop)(obj) },
		DeleteFunc: func(obj any) {
			control.Pending.Forget(obj)
			engine.Object(c.loop)(obj) // its Pods are to be let go
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	theirs, err := d.Informers.Core().V1().Pods().Informer().AddEventHandler(engine.Owners{Kind: kind, Add: c.loop.Add, Suitors: c.suitors})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	c.loop.Synced = []cache.DoneChecker{mine.HasSyncedChecker(), theirs.HasSyncedChecker()}
	return c.loop, nil
}

// suitors are the Jobs that may want to adopt the Pod.
func (c *controller) suitors(p metav1.Object) []cache.ObjectName {
	list, err := c.jobs.Jobs(p.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	return claim.Suitors(p, list, func(x *batchv1.Job) *metav1.LabelSelector { return x.Spec.Selector })
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	if !c.control.Pending.Settled(key) { // before anything is read: what is settled now is shown
		return pods.Behind()
	}
	j, err := c.jobs.Jobs(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read job: %w", err)
	}
	strayErr := c.releaseStrays(ctx, key, j)
	if apierrors.IsNotFound(err) || j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName {
		return strayErr
	}
	return errors.Join(strayErr, c.work(ctx, j))
}

// releaseStrays takes the finalizer off Pods of a Job of this name that is gone or finished; nobody counts them any more.
func (c *controller) releaseStrays(ctx context.Context, key cache.ObjectName, j *batchv1.Job) error {
	list, err := c.pods.Pods(key.Namespace).List(labels.SelectorFromSet(labels.Set{batchv1.JobNameLabel: key.Name}))
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, p := range list {
		ref := metav1.GetControllerOfNoCopy(p)
		mine := j != nil && ref != nil && ref.UID == j.UID
		if isTracked(p) && (!mine || IsFinished(j)) {
			errs = append(errs, c.untrack(ctx, p))
		}
	}
	return errors.Join(errs...)
}

func (c *controller) work(ctx context.Context, j *batchv1.Job) error {
	if IsFinished(j) {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	list, err := c.control.Claim(ctx, j, selector, func(ctx context.Context) (metav1.Object, error) {
		return c.client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
	})
	if err != nil {
		return fmt.Errorf("claim pods: %w", err)
	}
	now := time.Now()
	todo := decide(j, list, now)
	if err := c.carryOut(ctx, j, todo); err != nil {
		return err
	}
	switch {
	case !todo.again.IsZero():
		return &engine.Retry{After: max(time.Second, todo.again.Sub(now)), Why: "back-off or deadline"}
	case c.control.Pending.AwaitsPods(cache.MetaObjectToName(j)):
		return pods.Behind()
	}
	return nil
}

func (c *controller) carryOut(ctx context.Context, j *batchv1.Job, todo decision) error {
	changeErr := pods.Each(len(todo.remove), func(i int) error { return c.control.Delete(ctx, j, todo.remove[i]) })
	made, err := pods.SlowStart(len(todo.create), func(i int) error {
		_, err := c.control.Create(ctx, j, c.pod(j, todo.create[i]))
		if err != nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there, and the Job goes too
		}
		return err
	})
	changeErr = errors.Join(changeErr, err)
	todo.status.Active += int32(made)
	if !equality.Semantic.DeepEqual(j.Status, todo.status) {
		next := j.DeepCopy()
		next.Status = todo.status
		switch now, err := c.client.BatchV1().Jobs(j.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); {
		case err == nil:
			c.control.Pending.Wrote(now)
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			return changeErr // the event of what came first queues the Job again
		default:
			return errors.Join(changeErr, fmt.Errorf("write status: %w", err))
		}
	}
	for _, e := range todo.events {
		c.recorder.Event(j, e.kind, e.reason, e.message)
	}
	err = pods.Each(len(todo.untrack), func(i int) error { return c.untrack(ctx, todo.untrack[i]) })
	return errors.Join(changeErr, err)
}

// untrack takes the finalizer off the Pod.
func (c *controller) untrack(ctx context.Context, p *corev1.Pod) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("let go pod %s: %w", p.Name, err)
	}
	return nil
}

// pod is a Pod of the Job, which is not in the API yet.
func (c *controller) pod(j *batchv1.Job, o order) *corev1.Pod {
	p := c.control.FromTemplate(j, &j.Spec.Template)
	if !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if o.index < 0 {
		return p
	}
	index := strconv.Itoa(o.index)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation], p.Labels[batchv1.JobCompletionIndexAnnotation] = index, index
	if j.Spec.BackoffLimitPerIndex != nil {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(o.failures)
		if o.ignored > 0 {
			p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(o.ignored)
		}
	}
	p.GenerateName = fmt.Sprintf("%s-%d-", j.Name, o.index)
	p.Spec.Hostname = fmt.Sprintf("%s-%d", j.Name, o.index)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			named := func(e corev1.EnvVar) bool { return e.Name == "JOB_COMPLETION_INDEX" }
			if slices.ContainsFunc(list[i].Env, named) {
				continue
			}
			list[i].Env = append(list[i].Env, corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
				FieldRef: ptr.To(corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"})}})
		}
	}
	return p
}
