// Package resourcequota keeps the status of ResourceQuotas: what is used of them. Admission charges what is created; this
// controller counts anew when something is given back (an object goes, a Pod ends), when a quota changes, and now and then.
package resourcequota

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	costs "github.com/peapod/peapod/api/resource/quota"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/kindmapper"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "resourcequota-controller"

const (
	// resync is after what time a quota is counted again though nothing has happened, as upstream.
	resync = 5 * time.Minute
	// discover is after what time a kind is looked for again that a quota counts and that is not served, as upstream.
	discover = 30 * time.Second
)

type controller struct {
	d        engine.Deps
	loop     *engine.Loop
	quotas   corelisters.ResourceQuotaLister
	measured []quota.Evaluator
	typed    map[schema.GroupResource]cache.SharedIndexInformer
	kinds    *kinds
	classes  classes
	charges  charges
}

// New returns the controller. A key is a quota.
func New(d engine.Deps) (engine.Runner, error) {
	core := d.Informers.Core().V1()
	c := &controller{d: d, quotas: core.ResourceQuotas().Lister(), charges: newCharges()}
	c.loop = &engine.Loop{Name: Name, Workers: 5, Sync: c.sync}
	c.kinds = &kinds{
		metadata: d.Metadata, deleted: c.returned, watches: map[schema.GroupResource]*watch{},
		mapper: kindmapper.New(d.Client.Discovery()),
	}
	c.classes.changed = c.classChanged
	c.typed = map[schema.GroupResource]cache.SharedIndexInformer{
		corev1.Resource("pods"):                   core.Pods().Informer(),
		corev1.Resource("services"):               core.Services().Informer(),
		corev1.Resource("persistentvolumeclaims"): core.PersistentVolumeClaims().Informer(),
		resourcev1.Resource("resourceclaims"):     d.Informers.Resource().V1().ResourceClaims().Informer(),
	}
	c.measured = costs.Measured(c.list, c)
	handle, err := core.ResourceQuotas().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: engine.Object(c.loop), DeleteFunc: engine.Object(c.loop), UpdateFunc: c.changed,
	})
	if err != nil {
		return nil, err
	}
	c.loop.Synced = append(c.loop.Synced, handle.HasSyncedChecker())
	for _, e := range c.measured {
		informer := c.typed[e.GroupResource()]
		if informer == nil {
			continue
		}
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, now any) { c.updated(e, old, now) },
			DeleteFunc: func(obj any) {
				if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
					c.returned(e.GroupResource(), name.Namespace)
				}
			},
		})
		if err != nil {
			return nil, err
		}
		c.loop.Synced = append(c.loop.Synced, handle.HasSyncedChecker())
	}
	return c, nil
}

// Run works until ctx ends.
func (c *controller) Run(ctx context.Context) error {
	defer c.kinds.close()
	return c.loop.Run(ctx)
}

// list returns the objects of a kind that is watched, as evaluators want them.
func (c *controller) list(gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
	if informer := c.typed[gr]; informer != nil {
		return byNamespace(informer.GetIndexer(), namespace)
	}
	return c.kinds.list(gr, namespace)
}

// of returns the quotas of a namespace. Most namespaces have none: this is a look into an index.
func (c *controller) of(namespace string) []*corev1.ResourceQuota {
	list, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	return list
}

// changed looks at a quota whose limits are new, or whose status somebody else has made wrong. What admission has charged is
// only checked after a while: the request may have failed after all.
func (c *controller) changed(oldObj, nowObj any) {
	old, ok := oldObj.(*corev1.ResourceQuota)
	now, isQuota := nowObj.(*corev1.ResourceQuota)
	if !ok || !isQuota {
		return
	}
	key := cache.MetaObjectToName(now)
	if !quota.Equals(old.Spec.Hard, now.Spec.Hard) || !quota.Equals(now.Spec.Hard, now.Status.Hard) {
		c.loop.Add(key)
	}
	if !lowers(now.Status.Used, old.Status.Used) && !quota.Equals(now.Status.Used, old.Status.Used) {
		c.charges.charged(key, time.Now())
		c.loop.AddAfter(key, checkAfter)
	}
}

// updated looks at the quotas that an object costs more or less than before, or will from some time on.
func (c *controller) updated(e quota.Evaluator, old, now any) {
	before, ok := old.(runtime.Object)
	after, isObject := now.(runtime.Object)
	m, isMeta := now.(metav1.Object)
	if !ok || !isObject || !isMeta {
		return
	}
	for _, q := range c.of(m.GetNamespace()) {
		// What cannot be measured is reported by the count.
		if differs, err := costs.Affected(q, e, before, after); differs || err != nil || !end(before).Equal(end(after)) {
			c.loop.Add(cache.MetaObjectToName(q))
		}
	}
}

// end is when an object that is being deleted is no longer charged; zero if no time is set.
func end(obj runtime.Object) (t time.Time) {
	if pod, ok := obj.(*corev1.Pod); ok {
		t, _ = costs.ChargedUntil(pod, time.Now())
	}
	return t
}

// returned looks at the quotas that an object of the namespace may have cost something until now.
func (c *controller) returned(gr schema.GroupResource, namespace string) {
	for _, q := range c.of(namespace) {
		if slices.ContainsFunc(c.evaluators(q), func(e quota.Evaluator) bool { return e.GroupResource() == gr }) {
			c.loop.Add(cache.MetaObjectToName(q))
		}
	}
}

// evaluators returns those of the kinds that the quota bounds.
func (c *controller) evaluators(q *corev1.ResourceQuota) []quota.Evaluator {
	names := quota.ResourceNames(q.Spec.Hard)
	var out []quota.Evaluator
	covered := map[corev1.ResourceName]bool{}
	for _, e := range c.measured {
		matching := e.MatchingResources(names)
		for _, name := range matching {
			covered[name] = true
		}
		if len(matching) > 0 {
			out = append(out, e)
		}
	}
	for _, name := range names {
		text, ok := strings.CutPrefix(string(name), "count/")
		gr := schema.ParseGroupResource(text)
		if _, ignored := costs.Ignored()[gr]; ok && !covered[name] && !ignored {
			out = append(out, costs.Counted(gr, c.list))
		}
	}
	return out
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	q, err := c.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.charges.forget(key)
		return c.release()
	}
	if err != nil {
		return fmt.Errorf("read quota %s: %w", key, err)
	}
	if boundsExtended(q) {
		if err := c.classes.ensure(ctx, c.d.Informers); err != nil {
			return fmt.Errorf("count for quota %s: %w", key, err)
		}
	}
	again := &engine.Retry{After: resync, Why: "counted"}
	var evaluators []quota.Evaluator
	for _, e := range c.evaluators(q) {
		if c.typed[e.GroupResource()] == nil {
			served, err := c.kinds.ensure(ctx, e.GroupResource())
			if err != nil {
				return fmt.Errorf("count for quota %s: %w", key, err)
			}
			if !served {
				again = &engine.Retry{After: discover, Why: "no kind " + e.GroupResource().String()}
				continue
			}
		}
		evaluators = append(evaluators, e)
	}
	counted, countErr := quota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, generic.NewRegistry(evaluators), q.Spec.ScopeSelector)
	used := corev1.ResourceList{}
	for name := range q.Spec.Hard {
		// What could not be counted stays as it is.
		if n, ok := counted[name]; ok {
			used[name] = n
		} else if n, ok := q.Status.Used[name]; ok {
			used[name] = n
		}
	}
	if wait := c.charges.wait(key, lowers(used, q.Status.Used), time.Now()); wait > 0 {
		return &engine.Retry{After: wait, Why: "what was just charged may not be there yet"}
	}
	if err := c.write(ctx, q, used); err != nil {
		return err
	}
	if !quota.Equals(q.Spec.Hard, q.Status.Hard) {
		if err := c.release(); err != nil {
			return err
		}
	}
	if countErr != nil {
		return fmt.Errorf("count for quota %s: %w", key, countErr)
	}
	if t := c.nextEnd(q.Namespace, evaluators); !t.IsZero() {
		again.After = min(again.After, time.Until(t)+time.Millisecond)
	}
	return again
}

// write writes the status, unless it is so already.
func (c *controller) write(ctx context.Context, q *corev1.ResourceQuota, used corev1.ResourceList) error {
	if quota.Equals(q.Spec.Hard, q.Status.Hard) && quota.Equals(used, q.Status.Used) {
		return nil
	}
	q = q.DeepCopy()
	q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: used}
	_, err := c.d.Client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err):
		return &engine.Retry{After: settle, Why: "somebody else has changed the quota"}
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("write status of quota %s/%s: %w", q.Namespace, q.Name, err)
	}
	return nil
}

// nextEnd returns when the first of the Pods that should be gone is no longer charged; zero if there is none.
func (c *controller) nextEnd(namespace string, evaluators []quota.Evaluator) (first time.Time) {
	pods := corev1.Resource("pods")
	if !slices.ContainsFunc(evaluators, func(e quota.Evaluator) bool { return e.GroupResource() == pods }) {
		return first
	}
	list, err := c.list(pods, namespace)
	if err != nil {
		return first // the count has reported it
	}
	for _, obj := range list {
		if t := end(obj); !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// release stops watching kinds that no quota counts any more.
func (c *controller) release() error {
	list, err := c.quotas.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list quotas: %w", err)
	}
	needed := map[schema.GroupResource]bool{}
	for _, q := range list {
		for _, e := range c.evaluators(q) {
			needed[e.GroupResource()] = true
		}
	}
	c.kinds.keep(func(gr schema.GroupResource) bool { return needed[gr] })
	return nil
}
