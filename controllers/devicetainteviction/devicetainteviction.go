// Package devicetainteviction deletes Pods that use devices with NoExecute taints which their claims do not tolerate, or no longer, and
// tells in the status of DeviceTaintRules how far that is. Taints are those that drivers publish in ResourceSlices and those of the rules.
//
// Slices and Pods are followed from the first claim that has devices, or the first rule: before that there is nothing to evict, and nothing
// to tell.
package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/devicetaint"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of the
// same name fits.
const Name = "device-taint-eviction-controller"

// byPool is the index of claims by the pools that their devices are of, and of slices by their pool.
const byPool = "devicetainteviction.pool"

// key names a Pod, or a DeviceTaintRule.
type key struct {
	rule bool
	cache.ObjectName
}

type controller struct {
	client     kubernetes.Interface
	recorder   record.EventRecorder
	informers  informers.SharedInformerFactory
	claims     resourcelisters.ResourceClaimLister
	claimIndex cache.Indexer
	rules      resourcelisters.DeviceTaintRuleLister
	queue      *engine.Queue[key]

	// needed is closed when there is the first claim with devices, or the first rule. What follows is set then.
	needed     chan struct{}
	once       sync.Once
	pods       corelisters.PodLister
	sliceIndex cache.Indexer

	mu sync.Mutex
	// marks are the Pods that are to go, or have been deleted, until they are gone.
	marks map[cache.ObjectName]mark
	// evicted is how many Pods went because of each rule.
	evicted map[types.UID]int
}

// mark is what was decided last of a Pod.
type mark struct {
	uid types.UID
	// deleted says that the Pod was deleted; before, it has some time left.
	deleted bool
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	claims, rules := d.Informers.Resource().V1().ResourceClaims(), d.Informers.Resource().V1().DeviceTaintRules()
	c := &controller{
		client: d.Client, recorder: d.Recorder, informers: d.Informers,
		claims: claims.Lister(), claimIndex: claims.Informer().GetIndexer(), rules: rules.Lister(),
		needed: make(chan struct{}), marks: map[cache.ObjectName]mark{}, evicted: map[types.UID]int{},
	}
	c.queue = &engine.Queue[key]{Name: Name, Workers: 2, Sync: c.sync}
	if err := claims.Informer().AddIndexers(cache.Indexers{byPool: poolsOfClaim}); err != nil {
		return nil, fmt.Errorf("index resource claims by pool: %w", err)
	}
	claimsSeen, err := claims.Informer().AddEventHandler(engine.OnChange(c.claimChanged))
	if err != nil {
		return nil, err
	}
	rulesSeen, err := rules.Informer().AddEventHandler(engine.OnChange(c.ruleChanged))
	if err != nil {
		return nil, err
	}
	c.queue.Synced = []cache.DoneChecker{claimsSeen.HasSyncedChecker(), rulesSeen.HasSyncedChecker()}
	return c, nil
}

// Run implements engine.Runner.
func (c *controller) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.needed:
	}
	if err := c.follow(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Watch for tainted devices failed: no Pod is evicted from them")
		return err
	}
	return c.queue.Run(ctx)
}

// follow begins to watch slices and Pods.
func (c *controller) follow(ctx context.Context) error {
	pods, slices := c.informers.Core().V1().Pods(), c.informers.Resource().V1().ResourceSlices()
	c.pods, c.sliceIndex = pods.Lister(), slices.Informer().GetIndexer()
	if err := slices.Informer().AddIndexers(cache.Indexers{byPool: poolOfSlice}); err != nil {
		return fmt.Errorf("index resource slices by pool: %w", err)
	}
	podsSeen, err := pods.Informer().AddEventHandler(engine.OnChange(c.podChanged))
	if err != nil {
		return err
	}
	slicesSeen, err := slices.Informer().AddEventHandler(engine.OnChange(c.sliceChanged))
	if err != nil {
		return err
	}
	c.queue.Synced = append(c.queue.Synced, podsSeen.HasSyncedChecker(), slicesSeen.HasSyncedChecker())
	c.informers.StartWithContext(ctx)
	return nil
}

func (c *controller) sync(ctx context.Context, k key) error {
	if k.rule {
		return c.syncRule(ctx, k.ObjectName)
	}
	return c.syncPod(ctx, k.ObjectName)
}

// need begins the work.
func (c *controller) need() { c.once.Do(func() { close(c.needed) }) }

// claimChanged queues the Pods that may use the claim, or might before.
func (c *controller) claimChanged(old, new *resourcev1.ResourceClaim) {
	has := new != nil && new.Status.Allocation != nil
	if had := old != nil && old.Status.Allocation != nil; !has && !had {
		return
	}
	if has {
		c.need()
	}
	if old != nil && (new == nil || !slices.Equal(old.Status.ReservedFor, new.Status.ReservedFor)) {
		c.usersOf(old)
	}
	if new != nil {
		c.usersOf(new)
	}
}

// usersOf queues the Pods that may use the claim.
func (c *controller) usersOf(claim *resourcev1.ResourceClaim) {
	for _, user := range claim.Status.ReservedFor {
		if user.APIGroup == "" && user.Resource == "pods" {
			c.queue.Add(key{ObjectName: cache.NewObjectName(claim.Namespace, user.Name)})
		}
	}
}

// podChanged queues a Pod that came to its node, was told of claims, or has gone.
func (c *controller) podChanged(old, new *corev1.Pod) {
	pod := new
	if new == nil {
		pod = old
	}
	if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	if old != nil && new != nil && old.UID == new.UID && old.Spec.NodeName == new.Spec.NodeName && old.DeletionTimestamp.Equal(new.DeletionTimestamp) &&
		resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses) &&
		resourceclaim.PodExtendedStatusEqual(old.Status.ExtendedResourceClaimStatus, new.Status.ExtendedResourceClaimStatus) {
		return
	}
	c.queue.Add(key{ObjectName: cache.MetaObjectToName(pod)})
}

// sliceChanged queues the Pods that use devices of the slice's pool: a taint came or went, or another slice says now what there is.
func (c *controller) sliceChanged(old, new *resourcev1.ResourceSlice) {
	slice := new
	if new == nil {
		slice = old
	}
	if old != nil && new != nil && equality.Semantic.DeepEqual(old.Spec, new.Spec) {
		return
	}
	claims, err := c.claimIndex.ByIndex(byPool, poolKey(slice.Spec.Driver, slice.Spec.Pool.Name))
	if err != nil {
		return // an index that was made above does not fail
	}
	for _, obj := range claims {
		if claim, ok := obj.(*resourcev1.ResourceClaim); ok {
			c.usersOf(claim)
		}
	}
}

// ruleChanged queues the rule, and the Pods that use devices which it means, or meant.
func (c *controller) ruleChanged(old, new *resourcev1.DeviceTaintRule) {
	if old != nil && new != nil && old.UID == new.UID && old.Generation == new.Generation {
		return // the status is ours
	}
	c.need()
	for _, rule := range []*resourcev1.DeviceTaintRule{old, new} {
		if rule == nil {
			continue
		}
		c.queue.Add(key{rule: true, ObjectName: cache.MetaObjectToName(rule)})
		if rule.Spec.Taint.Effect != resourcev1.DeviceTaintEffectNoExecute {
			continue
		}
		for _, obj := range c.claimIndex.List() {
			if claim, ok := obj.(*resourcev1.ResourceClaim); ok && meant(claim, rule) > 0 {
				c.usersOf(claim)
			}
		}
	}
}

// meant is how many devices that the claim has the rule means.
func meant(claim *resourcev1.ResourceClaim, rule *resourcev1.DeviceTaintRule) int {
	n := 0
	if claim.Status.Allocation == nil {
		return n
	}
	for i := range claim.Status.Allocation.Devices.Results {
		if r := &claim.Status.Allocation.Devices.Results[i]; devicetaint.Selects(rule, r.Driver, r.Pool, r.Device) {
			n++
		}
	}
	return n
}

// poolKey is how the indexes name a pool. Drivers' names have no slash.
func poolKey(driver, pool string) string { return driver + "/" + pool }

func poolsOfClaim(obj any) ([]string, error) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok || claim.Status.Allocation == nil {
		return nil, nil
	}
	var pools []string
	for i := range claim.Status.Allocation.Devices.Results {
		r := &claim.Status.Allocation.Devices.Results[i]
		if k := poolKey(r.Driver, r.Pool); !slices.Contains(pools, k) {
			pools = append(pools, k)
		}
	}
	return pools, nil
}

func poolOfSlice(obj any) ([]string, error) {
	slice, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return nil, nil
	}
	return []string{poolKey(slice.Spec.Driver, slice.Spec.Pool.Name)}, nil
}
