// Package daemonset runs one Pod of each DaemonSet on every node that fits, and updates them node by node. What to do is
// decided by pure functions (decide.go); the scheduler binds the Pods, each to the node that it was made for.
package daemonset

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/claim"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/controllers/revision"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "daemon-set-controller"

const (
	workers = 2
	// burst is how many Pods a set makes at most before it looks again.
	burst = 250
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	sets     appslisters.DaemonSetLister
	nodes    corelisters.NodeLister
	control  *pods.Control
	history  *revision.History
	loop     *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	sets, nodes, revisions := d.Informers.Apps().V1().DaemonSets(), d.Informers.Core().V1().Nodes(), d.Informers.Apps().V1().ControllerRevisions()
	control, err := pods.NewControl(d, kind, sets.Informer())
	if err != nil {
		return nil, err
	}
	c := &controller{
		client: d.Client, recorder: d.Recorder, sets: sets.Lister(), nodes: nodes.Lister(), control: control,
		history: &revision.History{Client: d.Client, Lister: revisions.Lister(), Kind: kind}, loop: &engine.Loop{Name: Name, Workers: workers},
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
		{nodes.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { c.all() }, DeleteFunc: func(any) { c.all() },
			UpdateFunc: func(old, now any) {
				if a, ok := old.(*corev1.Node); ok {
					if b, ok := now.(*corev1.Node); ok && matters(a, b) {
						c.all()
					}
				}
			}}},
	} {
		seen, err := watch.informer.AddEventHandler(watch.handler)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, seen.HasSyncedChecker())
	}
	return c.loop, nil
}

// matters says whether a node changed in what decides about Pods of DaemonSets.
func matters(a, b *corev1.Node) bool {
	return !maps.Equal(a.Labels, b.Labels) || !equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints)
}

// all queues every set.
func (c *controller) all() {
	list, err := c.sets.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, ds := range list {
		c.loop.Add(cache.MetaObjectToName(ds))
	}
}

// suitors are the sets that may want to adopt the object.
func (c *controller) suitors(o metav1.Object) []cache.ObjectName {
	list, err := c.sets.DaemonSets(o.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	return claim.Suitors(o, list, func(x *appsv1.DaemonSet) *metav1.LabelSelector { return x.Spec.Selector })
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	if !c.control.Pending.Settled(key) { // before anything is read: what is settled now is shown
		return pods.Behind()
	}
	ds, err := c.sets.DaemonSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read daemon set: %w", err)
	}
	if equality.Semantic.DeepEqual(ds.Spec.Selector, &metav1.LabelSelector{}) {
		c.recorder.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil
	}
	ds = ds.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(ds.Namespace).Get(ctx, ds.Name, metav1.GetOptions{})
	}
	shown := ds.Status.DeepCopy()
	revisions, err := c.history.List(ctx, ds, selector, fresh)
	if err != nil {
		return err
	}
	current, err := c.history.Ensure(ctx, ds, &ds.Spec.Template, revisions, &ds.Status.CollisionCount)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // nothing can be made there, and the set goes too
	}
	if err != nil {
		return err
	}
	mine, err := c.control.Claim(ctx, ds, selector, fresh)
	if err != nil {
		return fmt.Errorf("claim pods: %w", err)
	}
	again, err := c.work(ctx, ds, shown, mine, revision.Hash(current))
	if err != nil {
		return err
	}
	used := map[string]bool{revision.Hash(current): true}
	for _, p := range mine {
		used[p.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	inUse := func(r *appsv1.ControllerRevision) bool { return used[revision.Hash(r)] }
	if err := c.history.Truncate(ctx, revisions, inUse, ds.Spec.RevisionHistoryLimit); err != nil {
		return err
	}
	switch {
	case !again.IsZero():
		return &engine.Retry{After: max(time.Second, time.Until(again)), Why: "a pod becomes available"}
	case c.control.Pending.AwaitsPods(key):
		return pods.Behind()
	}
	return nil
}

// places sorts Pods by nodes; strays are those whose node is gone before they came to it.
func (c *controller) places(ds *appsv1.DaemonSet, mine []*corev1.Pod) (out []*place, strays []*corev1.Pod, err error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	template := c.control.FromTemplate(ds, &ds.Spec.Template)
	podFor(template, "")
	byNode := map[string]*place{}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, n := range nodes {
		at := &place{node: n}
		if at.run, at.stay, err = fits(template, n); err != nil {
			return nil, nil, fmt.Errorf("match node %s: %w", n.Name, err)
		}
		out, byNode[n.Name] = append(out, at), at
	}
	for _, p := range mine {
		if at := byNode[nodeOf(p)]; at != nil {
			at.pods = append(at.pods, p)
		} else if p.Spec.NodeName == "" && p.DeletionTimestamp == nil {
			strays = append(strays, p)
		}
	}
	return out, strays, nil
}

// work makes and deletes Pods and writes the status.
func (c *controller) work(ctx context.Context, ds *appsv1.DaemonSet, shown *appsv1.DaemonSetStatus, mine []*corev1.Pod, hash string) (time.Time, error) {
	places, strays, err := c.places(ds, mine)
	if err != nil {
		return time.Time{}, err
	}
	wanted := 0
	for _, at := range places {
		if at.run {
			wanted++
		}
	}
	s, err := settingsOf(ds, hash, wanted)
	if err != nil {
		return time.Time{}, fmt.Errorf("read update strategy: %w", err)
	}
	todo, now := &plan{}, time.Now()
	todo.manage(places, s, now)
	todo.remove = append(todo.remove, strays...)
	if s.rolling && len(todo.create)+len(todo.remove) == 0 {
		todo.update(places, s, now)
	}
	changeErr := c.carryOut(ctx, ds, todo, hash)
	ds.Status = todo.statusOf(ds, places, s, now)
	if !equality.Semantic.DeepEqual(*shown, ds.Status) {
		updated, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, ds, metav1.UpdateOptions{})
		switch {
		case err == nil:
			c.control.Pending.Wrote(updated)
		case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
			changeErr = errors.Join(changeErr, fmt.Errorf("write status: %w", err))
		}
	}
	return todo.again, changeErr
}

func (c *controller) carryOut(ctx context.Context, ds *appsv1.DaemonSet, todo *plan, hash string) error {
	for _, p := range todo.ended {
		if p.Status.Phase == corev1.PodFailed {
			c.recorder.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, p.Spec.NodeName)
		} else {
			c.recorder.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, p.Spec.NodeName)
		}
	}
	removeErr := pods.Each(len(todo.remove), func(i int) error { return c.control.Delete(ctx, ds, todo.remove[i]) })
	_, createErr := pods.SlowStart(min(len(todo.create), burst), func(i int) error {
		p := c.control.FromTemplate(ds, &ds.Spec.Template)
		podFor(p, todo.create[i])
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
		if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
			p.Labels["pod-template-generation"] = g
		}
		_, err := c.control.Create(ctx, ds, p)
		if err != nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there, and the set goes too
		}
		return err
	})
	return errors.Join(removeErr, createErr)
}
