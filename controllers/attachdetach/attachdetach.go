// Package attachdetach has the volumes of CSI drivers attached to the nodes whose Pods use them, and detached when no Pod there
// does and the node has unmounted them. It asks for that by VolumeAttachment objects, which the driver's own controller answers.
//
// Node and controller agree by two lists in the Node's status: volumesInUse is the kubelet's, volumesAttached the controller's. The
// kubelet lists a volume before it mounts it, and mounts it only while both lists have it. The controller takes it off its list
// first, and then looks whether the kubelet has it on the other. So no volume is detached under a file system.
//
// Until there is a persistent volume of a driver the controller watches nothing that others do not.
package attachdetach

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/internal/csiname"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "attachdetach-controller"

// maxWait is how long a node that is not ready may keep a volume in use: then it is detached all the same.
const maxWait = 6 * time.Minute

// Indexes of attachments, and that of Pods that have claims by their node.
const (
	byNode    = "attachments.node"
	byVolume  = "attachments.volume"
	claimants = "claimants.node"
)

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	clock    clock.PassiveClock
	loop     *engine.Loop

	nodes   corelisters.NodeLister
	pods    cache.Indexer
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister

	// needed is closed when there is a volume to attach or detach; only then is there what follows.
	needed      chan struct{}
	once        sync.Once
	informers   informers.SharedInformerFactory
	drivers     storagelisters.CSIDriverLister
	attachments cache.Indexer

	mu sync.Mutex
	// leaving has since when a volume is to leave a node, by the attachment's name.
	leaving map[string]time.Time
	// told has what Pods were told of last, by node and volume.
	told map[string]map[corev1.UniqueVolumeName]string
	// making has who gets an exclusive volume, by the persistent volume's name, until the attachment is seen.
	making map[string]reservation
	// ending has the UIDs of the attachments that were deleted, by name, while the informer may show them as they were.
	ending map[string]types.UID
}

// New returns the controller. A key is a node.
func New(d engine.Deps) (engine.Runner, error) { return newController(d, clock.RealClock{}) }

func newController(d engine.Deps, clock clock.PassiveClock) (engine.Runner, error) {
	core := d.Informers.Core().V1()
	c := &controller{
		client: d.Client, recorder: d.Recorder, clock: clock,
		nodes: core.Nodes().Lister(), pods: core.Pods().Informer().GetIndexer(),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(),
		needed: make(chan struct{}), informers: informers.NewSharedInformerFactory(d.Client, 0),
		leaving: map[string]time.Time{}, told: map[string]map[corev1.UniqueVolumeName]string{}, making: map[string]reservation{}, ending: map[string]types.UID{},
	}
	c.loop = &engine.Loop{Name: Name, Workers: 2, Sync: c.sync}
	if err := errors.Join(pods.IndexClaims(core.Pods().Informer()), core.Pods().Informer().AddIndexers(cache.Indexers{claimants: nodeOfClaimant})); err != nil {
		return nil, err
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Pods().Informer(), engine.OnAny(c.podChanged)},
		{core.PersistentVolumeClaims().Informer(), engine.OnSet(c.claimChanged)},
		{core.PersistentVolumes().Informer(), engine.OnAny(c.volumeChanged)},
		{core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: c.nodeAppeared, UpdateFunc: c.nodeChanged, DeleteFunc: engine.Object(c.loop)}},
	} {
		seen, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return nil, err
		}
		c.loop.Synced = append(c.loop.Synced, seen.HasSyncedChecker())
	}
	return c, nil
}

// Run implements engine.Runner. It begins when there is something to attach; until then keys gather.
func (c *controller) Run(ctx context.Context) error {
	select {
	case <-c.needed:
	case <-ctx.Done():
		return nil
	}
	storage := c.informers.Storage().V1()
	attachments := storage.VolumeAttachments().Informer()
	if err := attachments.AddIndexers(attachmentIndexers); err != nil {
		return err
	}
	c.attachments, c.drivers = attachments.GetIndexer(), storage.CSIDrivers().Lister()
	attachmentsSeen, err := attachments.AddEventHandler(engine.OnAny(c.attachmentChanged))
	if err != nil {
		return err
	}
	driversSeen, err := storage.CSIDrivers().Informer().AddEventHandler(engine.OnAny(c.driverChanged))
	if err != nil {
		return err
	}
	c.loop.Synced = append(c.loop.Synced, attachmentsSeen.HasSyncedChecker(), driversSeen.HasSyncedChecker())
	c.informers.StartWithContext(ctx)
	defer c.informers.Shutdown()
	return c.loop.Run(ctx)
}

var attachmentIndexers = cache.Indexers{
	byNode: func(obj any) ([]string, error) {
		return []string{obj.(*storagev1.VolumeAttachment).Spec.NodeName}, nil
	},
	byVolume: func(obj any) ([]string, error) {
		if name := obj.(*storagev1.VolumeAttachment).Spec.Source.PersistentVolumeName; name != nil {
			return []string{*name}, nil
		}
		return nil, nil
	},
}

func nodeOfClaimant(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" && len(pods.ClaimNames(p)) > 0 {
		return []string{p.Spec.NodeName}, nil
	}
	return nil, nil
}

func (c *controller) need() { c.once.Do(func() { close(c.needed) }) }

func (c *controller) queue(node string) {
	if node != "" {
		c.loop.Add(cache.ObjectName{Name: node})
	}
}

// podChanged queues the node of a Pod that may have a volume to attach.
func (c *controller) podChanged(obj any) {
	if p, ok := last(obj).(*corev1.Pod); ok && p.Spec.NodeName != "" && len(pods.ClaimNames(p)) > 0 {
		c.queue(p.Spec.NodeName)
	}
}

func (c *controller) claimChanged(obj any) {
	if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && claim.Spec.VolumeName != "" {
		c.usersChanged(cache.MetaObjectToName(claim))
	}
}

func (c *controller) volumeChanged(obj any) {
	v, ok := last(obj).(*corev1.PersistentVolume)
	if !ok || v.Spec.CSI == nil {
		return
	}
	c.need()
	if ref := v.Spec.ClaimRef; ref != nil {
		c.usersChanged(cache.NewObjectName(ref.Namespace, ref.Name))
	}
}

// usersChanged queues the nodes of the Pods that use a claim.
func (c *controller) usersChanged(claim cache.ObjectName) {
	users, err := pods.UsersOf(c.pods, claim)
	if err != nil {
		return // an index that was made above does not fail
	}
	for _, p := range users {
		c.queue(p.Spec.NodeName)
	}
}

func (c *controller) nodeAppeared(obj any) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	if slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return isCSI(a.Name) }) {
		c.need()
	}
	c.queue(n.Name)
}

func (c *controller) nodeChanged(old, now any) {
	was, ok := old.(*corev1.Node)
	is, isNode := now.(*corev1.Node)
	if !ok || !isNode {
		return
	}
	if !equality.Semantic.DeepEqual(was.Status.VolumesInUse, is.Status.VolumesInUse) || !equality.Semantic.DeepEqual(was.Status.VolumesAttached, is.Status.VolumesAttached) ||
		ready(was) != ready(is) || outOfService(was) != outOfService(is) {
		c.queue(is.Name)
	}
}

// attachmentChanged queues the attachment's node, and the nodes of Pods that may wait for it to be detached there.
func (c *controller) attachmentChanged(obj any) {
	a, ok := last(obj).(*storagev1.VolumeAttachment)
	if !ok {
		return
	}
	c.ended(a.Name)
	c.queue(a.Spec.NodeName)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		c.seen(*name, a.Spec.NodeName)
		if v, err := c.volumes.Get(*name); err == nil {
			c.volumeChanged(v)
		}
	}
}

// driverChanged queues the nodes that have something to attach: it may be none of them any more.
func (c *controller) driverChanged(obj any) {
	d, ok := last(obj).(*storagev1.CSIDriver)
	if !ok {
		return
	}
	for _, v := range c.ofDrivers() {
		if v.Spec.CSI.Driver == d.Name {
			c.volumeChanged(v)
		}
	}
	for _, obj := range c.attachments.List() {
		if a := obj.(*storagev1.VolumeAttachment); a.Spec.Attacher == d.Name {
			c.queue(a.Spec.NodeName)
		}
	}
}

// last returns the object of a deletion that the watch missed, too.
func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

func isCSI(name corev1.UniqueVolumeName) bool {
	_, _, ok := csiname.Parse(name)
	return ok
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// outOfService says whether an administrator vouches that the node is off: what it has in use does not count then.
func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}
