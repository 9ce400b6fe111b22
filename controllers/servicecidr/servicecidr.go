// Package servicecidr looks after ServiceCIDRs: one that is there is ready, one that is deleted stays, by its finalizer,
// until no cluster IP is left that no other ServiceCIDR has.
package servicecidr

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	applynetworkingv1 "k8s.io/client-go/applyconfigurations/networking/v1"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/serviceip"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of
// the same name fits. Source is the component of its events and the manager of what it writes.
const (
	Name   = "service-cidrs-controller"
	Source = "service-cidr-controller"
)

// grace is for how long after its deletion a ServiceCIDR stays at least: until every API server knows of the deletion, and takes no
// address from it any more.
const grace = 10 * time.Second

type controller struct {
	client    kubernetes.Interface
	recorder  record.EventRecorder
	ranges    networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	loop      *engine.Loop
	grace     time.Duration
}

// New returns the controller. A key is a ServiceCIDR.
func New(d engine.Deps) (engine.Runner, error) { return newController(d, grace) }

func newController(d engine.Deps, grace time.Duration) (engine.Runner, error) {
	ranges, addresses := d.Informers.Networking().V1().ServiceCIDRs(), d.Informers.Networking().V1().IPAddresses()
	c := &controller{client: d.Client, recorder: d.Recorder, ranges: ranges.Lister(), addresses: addresses.Lister(), loop: &engine.Loop{Name: Name}, grace: grace}
	c.loop.Sync = c.sync
	queue := engine.Object(c.loop)
	rangesSeen, err := ranges.Informer().AddEventHandler(engine.OnAny(func(obj any) {
		queue(obj)
		c.freed(nil) // it may have the addresses of those that are being deleted
	}))
	if err != nil {
		return nil, fmt.Errorf("watch service CIDRs: %w", err)
	}
	addressesSeen, err := addresses.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: c.freed})
	if err != nil {
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	c.loop.Synced = []cache.DoneChecker{rangesSeen.HasSyncedChecker(), addressesSeen.HasSyncedChecker()}
	return c.loop, nil
}

// freed queues the ServiceCIDRs that are being deleted: one that an address has kept may go.
func (c *controller) freed(any) {
	all, err := c.ranges.List(labels.Everything())
	if err != nil {
		return // a cache has no errors
	}
	for _, r := range all {
		if r.DeletionTimestamp != nil {
			c.loop.Add(cache.ObjectName{Name: r.Name})
		}
	}
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	r, err := c.ranges.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read service CIDR: %w", err)
	}
	if r.DeletionTimestamp != nil {
		return c.release(ctx, r)
	}
	if !slices.Contains(r.Finalizers, serviceip.Finalizer) {
		r = r.DeepCopy()
		r.Finalizers = append(r.Finalizers, serviceip.Finalizer)
		if err := c.update(ctx, r); err != nil {
			return err
		}
	}
	err = c.report(ctx, r, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	if err != nil {
		c.recorder.Event(r, corev1.EventTypeWarning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")
	}
	return err
}

// release lets a ServiceCIDR go that nobody needs, or says why it stays.
func (c *controller) release(ctx context.Context, r *networkingv1.ServiceCIDR) error {
	if !slices.Contains(r.Finalizers, serviceip.Finalizer) {
		return nil
	}
	needed, err := c.needed(ctx, r)
	if err != nil {
		return err
	}
	if needed {
		return c.report(ctx, r, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	if left := c.grace - time.Since(r.DeletionTimestamp.Time); left > 0 {
		return &engine.Retry{After: left, Why: "API servers may not know yet that the ServiceCIDR is deleted"}
	}
	r = r.DeepCopy()
	r.Finalizers = slices.DeleteFunc(r.Finalizers, func(f string) bool { return f == serviceip.Finalizer })
	return c.update(ctx, r)
}

// needed says whether an address would be of no ServiceCIDR without r. That none would is only believed of the API: the
// informer may be behind.
func (c *controller) needed(ctx context.Context, r *networkingv1.ServiceCIDR) (bool, error) {
	all, err := c.ranges.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list service CIDRs: %w", err)
	}
	var others []netip.Prefix
	for _, o := range all {
		if o.Name != r.Name && o.DeletionTimestamp == nil {
			others = append(others, serviceip.Prefixes(o)...)
		}
	}
	own := slices.DeleteFunc(serviceip.Prefixes(r), func(p netip.Prefix) bool {
		return slices.ContainsFunc(others, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Overlaps(p) })
	})
	if len(own) == 0 {
		return false, nil
	}
	orphan := func(ip *networkingv1.IPAddress) bool {
		a, err := netip.ParseAddr(ip.Name)
		return err == nil && within(own, a) && !within(others, a)
	}
	managed := labels.Set{networkingv1.LabelManagedBy: serviceip.Allocator}
	known, err := c.addresses.List(managed.AsSelector())
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	if slices.ContainsFunc(known, orphan) {
		return true, nil
	}
	list, err := c.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{LabelSelector: managed.String()})
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return slices.ContainsFunc(list.Items, func(ip networkingv1.IPAddress) bool { return orphan(&ip) }), nil
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return serviceip.Contains(p, a) })
}

// update writes the finalizers. Where the cache lagged behind, the event that brings it up to date queues the key again.
func (c *controller) update(ctx context.Context, r *networkingv1.ServiceCIDR) error {
	_, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, r, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("change finalizers of service CIDR %s: %w", r.Name, err)
	}
	return nil
}

// report writes the condition Ready where it says something else.
func (c *controller) report(ctx context.Context, r *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	const ready = networkingv1.ServiceCIDRConditionReady
	was := meta.FindStatusCondition(r.Status.Conditions, ready)
	if was != nil && was.Status == status && was.Reason == reason && was.Message == message {
		return nil
	}
	condition := applymetav1.Condition().WithType(ready).WithStatus(status).WithReason(reason).WithMessage(message).WithLastTransitionTime(metav1.Now())
	next := applynetworkingv1.ServiceCIDR(r.Name).WithStatus(applynetworkingv1.ServiceCIDRStatus().WithConditions(condition))
	_, err := c.client.NetworkingV1().ServiceCIDRs().ApplyStatus(ctx, next, metav1.ApplyOptions{FieldManager: Source, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of service CIDR %s: %w", r.Name, err)
	}
	return nil
}
