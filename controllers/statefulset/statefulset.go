// Package statefulset runs Pods that have names, storage and an order of their own, and replaces them from the highest number
// down when their template changes. What to do is decided by a pure function (decide.go).
package statefulset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/claim"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/controllers/revision"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "statefulset-controller"

const (
	workers = 5
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

type controller struct {
	client  kubernetes.Interface
	sets    appslisters.StatefulSetLister
	claims  corelisters.PersistentVolumeClaimLister
	control *pods.Control
	history *revision.History
	loop    *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	sets, revisions := d.Informers.Apps().V1().StatefulSets(), d.Informers.Apps().V1().ControllerRevisions()
	control, err := pods.NewControl(d, kind, sets.Informer())
	if err != nil {
		return nil, err
	}
	control.Words = words
	control.Member = func(owner pods.Owner, p *corev1.Pod) bool { return ordinalOf(owner.GetName(), p.Name) >= 0 }
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	c := &controller{
		client: d.Client, sets: sets.Lister(), claims: claims.Lister(), control: control, loop: &engine.Loop{Name: Name, Workers: workers},
		history: &revision.History{Client: d.Client, Lister: revisions.Lister(), Kind: kind},
	}
	c.loop.Sync = c.sync
	for _, watch := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{sets.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: engine.Object(c.loop), UpdateFunc: func(_, obj any) { engine.Object(c.loop)(obj) },
			DeleteFunc: control.Pending.Forget}},
		{d.Informers.Core().V1().Pods().Informer(), engine.Owners{Kind: kind, Add: c.loop.Add, Suitors: c.suitors}},
		{revisions.Informer(), engine.Owners{Kind: kind, Add: c.loop.Add, Suitors: c.suitors}},
		{claims.Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: c.claimGone}},
	} {
		seen, err := watch.informer.AddEventHandler(watch.handler)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, seen.HasSyncedChecker())
	}
	return c.loop, nil
}

// words is the message of an event about a Pod of a set; err is nil for a success.
func words(verb, pod, set string, err error) string {
	if err != nil {
		return fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod, set, err)
	}
	return fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod, set)
}

// suitors are the sets that may want to adopt the object.
func (c *controller) suitors(o metav1.Object) []cache.ObjectName {
	list, err := c.sets.StatefulSets(o.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	return claim.Suitors(o, list, func(x *appsv1.StatefulSet) *metav1.LabelSelector { return x.Spec.Selector })
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	if !c.control.Pending.Settled(key) { // before anything is read: what is settled now is shown
		return pods.Behind()
	}
	shown, err := c.sets.StatefulSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read stateful set: %w", err)
	}
	set := shown.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	revisions, err := c.history.List(ctx, set, selector, fresh)
	if err != nil {
		return err
	}
	mine, err := c.control.Claim(ctx, set, selector, fresh)
	if err != nil {
		return fmt.Errorf("claim pods: %w", err)
	}
	if set.DeletionTimestamp != nil { // the garbage collector takes its Pods
		todo := decide(set, mine, set.Status.CurrentRevision, set.Status.UpdateRevision, time.Now())
		return c.write(ctx, shown, todo.status)
	}
	update, err := c.history.Ensure(ctx, set, &set.Spec.Template, revisions, &set.Status.CollisionCount)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // nothing can be made there, and the set goes too
	}
	if err != nil {
		return err
	}
	current := update
	for _, r := range revisions {
		if r.Name == set.Status.CurrentRevision {
			current = r
		}
	}
	todo := decide(set, mine, current.Name, update.Name, time.Now())
	if err = c.keep(ctx, set, mine); err == nil { // a Pod must not go before its claims know with whom they go
		err = c.carryOut(ctx, set, &todo, current, update)
	}
	err = errors.Join(err, c.write(ctx, shown, todo.status))
	if err != nil {
		return err
	}
	inUse := func(r *appsv1.ControllerRevision) bool {
		return r.Name == current.Name || r.Name == update.Name || slices.ContainsFunc(mine, func(p *corev1.Pod) bool { return revisionOf(p) == r.Name })
	}
	if err := c.history.Truncate(ctx, revisions, inUse, set.Spec.RevisionHistoryLimit); err != nil {
		return err
	}
	switch {
	case !todo.again.IsZero():
		return &engine.Retry{After: max(time.Second, time.Until(todo.again)), Why: "a pod becomes available"}
	case c.control.Pending.AwaitsPods(key):
		return pods.Behind()
	}
	return nil
}

func (c *controller) write(ctx context.Context, shown *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(shown.Status, status) {
		return nil
	}
	set := shown.DeepCopy()
	set.Status = status
	now, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
	switch {
	case err == nil:
		c.control.Pending.Wrote(now)
	case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// keep brings what the set's Pods have beside them into line: the labels that name them, and their claims.
func (c *controller) keep(ctx context.Context, set *appsv1.StatefulSet, mine []*corev1.Pod) error {
	var errs []error
	for _, p := range mine {
		wanted := inRange(set, ordinalOf(set.Name, p.Name))
		if wanted && p.DeletionTimestamp != nil {
			continue // the next one of its name says what is with the claims
		}
		if p.DeletionTimestamp == nil && p.Labels[appsv1.StatefulSetPodNameLabel] != p.Name {
			errs = append(errs, c.identify(ctx, set, p))
		}
		if wanted && p.Status.Phase == corev1.PodPending {
			errs = append(errs, c.provide(ctx, set, p))
		}
		errs = append(errs, c.own(ctx, set, p))
	}
	return errors.Join(errs...)
}

func (c *controller) carryOut(ctx context.Context, set *appsv1.StatefulSet, todo *plan, current, update *appsv1.ControllerRevision) error {
	removeErr := pods.Each(len(todo.remove), func(i int) error {
		return c.control.Delete(ctx, set, todo.remove[i])
	})
	_, createErr := pods.SlowStart(len(todo.create), func(i int) error {
		n := todo.create[i]
		template, name := &set.Spec.Template, update.Name
		if revisionFor(set, n, current.Name, update.Name) == current.Name && current != update {
			old, err := revision.Template(current)
			if err != nil {
				return err
			}
			template, name = old, current.Name
		}
		p := c.pod(set, n, template, name)
		if c.isStale(set, p) {
			return nil // the event of the claim's end queues the set
		}
		if err := c.provide(ctx, set, p); err != nil {
			c.control.Recorder.Event(set, corev1.EventTypeWarning, "FailedCreate", words("Create", p.Name, set.Name, err))
			return err
		}
		_, err := c.control.Create(ctx, set, p)
		switch {
		case apierrors.IsAlreadyExists(err): // an event of who has the name queues the set when it goes
			return nil
		case err != nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil // nothing can be made there, and the set goes too
		}
		return err
	})
	return errors.Join(removeErr, createErr)
}
