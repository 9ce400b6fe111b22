// Package persistentvolume binds claims to volumes, one to one, and says what becomes of a volume whose claim is gone. It
// makes and removes no storage: provisioners do, told by annotations of claims and phases of volumes. Volumes to be recycled, which
// is deprecated, are emptied by Pods.
//
// A binding is written in four steps, each of which may be the last before the controller stops: the volume names its claim,
// the volume is Bound, the claim names its volume, the claim is Bound. Whatever step is missing is taken at the next look at
// either object.
package persistentvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/controllers/written"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "persistent-volume-binder"

// raced is after what time a claim is looked at again whose volume was changed by somebody else meanwhile: the volume's own
// events concern its new claim, not this one.
const raced = 20 * time.Millisecond

// Indexes of the shared informers.
const (
	// volumesByClaim finds volumes by the claim, namespace/name, that they name; volumesByClass those that name none.
	volumesByClaim = "persistentvolume.claim"
	volumesByClass = "persistentvolume.class"
	// claimsByVolume finds claims by the volume that they name; claimsByClass those that name none.
	claimsByVolume = "persistentvolume.volume"
	claimsByClass  = "persistentvolume.class"
)

// key is a claim, or a volume, which has no namespace.
type key struct {
	volume bool
	cache.ObjectName
}

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	volumes  corelisters.PersistentVolumeLister
	claims   corelisters.PersistentVolumeClaimLister
	classes  storagelisters.StorageClassLister

	volumeIndex, claimIndex, podIndex cache.Indexer

	// recyclers are the UIDs of the Pods that empty volumes, by volume; the worker's own.
	recyclers map[string]types.UID
	// written is what was written of claims and for them and is not seen yet; the worker's own.
	written map[cache.ObjectName]written.Versions
	// One worker: two at once would choose the same volume.
	queue *engine.Queue[key]
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	c, err := newController(d)
	if err != nil {
		return nil, err
	}
	return c.queue, nil
}

func newController(d engine.Deps) (*controller, error) {
	volumes, claims := d.Informers.Core().V1().PersistentVolumes(), d.Informers.Core().V1().PersistentVolumeClaims()
	classes, podInformer := d.Informers.Storage().V1().StorageClasses(), d.Informers.Core().V1().Pods().Informer()
	c := &controller{
		client: d.Client, recorder: d.Recorder, volumes: volumes.Lister(), claims: claims.Lister(), classes: classes.Lister(),
		volumeIndex: volumes.Informer().GetIndexer(), claimIndex: claims.Informer().GetIndexer(), podIndex: podInformer.GetIndexer(),
		recyclers: map[string]types.UID{}, written: map[cache.ObjectName]written.Versions{},
	}
	c.queue = &engine.Queue[key]{Name: Name, Sync: c.sync}
	for informer, index := range map[cache.SharedIndexInformer]cache.Indexers{
		volumes.Informer(): {volumesByClaim: claimOfVolume, volumesByClass: classOfVolume},
		claims.Informer():  {claimsByVolume: volumeOfClaim, claimsByClass: classOfClaim},
	} {
		if err := informer.AddIndexers(index); err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
	}
	if err := pods.IndexClaims(podInformer); err != nil {
		return nil, err
	}
	for _, watch := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{volumes.Informer(), engine.OnAny(c.volumeChanged)},
		{claims.Informer(), engine.OnAny(c.claimChanged)},
		{classes.Informer(), engine.OnSet(c.classChanged)},
		{podInformer, engine.OnAny(c.recyclerChanged)},
	} {
		seen, err := watch.informer.AddEventHandler(watch.handler)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.queue.Synced = append(c.queue.Synced, seen.HasSyncedChecker())
	}
	return c, nil
}

func (c *controller) addClaim(o cache.ObjectName) { c.queue.Add(key{false, o}) }

func (c *controller) addVolume(name string) { c.queue.Add(key{true, cache.ObjectName{Name: name}}) }

// volumeChanged queues the volume, the claims that name it or are named by it, and those that it may be the answer to.
func (c *controller) volumeChanged(obj any) {
	v := object[corev1.PersistentVolume](obj)
	if v == nil {
		return
	}
	c.addVolume(v.Name)
	if ref := v.Spec.ClaimRef; ref != nil {
		c.addClaim(cache.ObjectName{Namespace: ref.Namespace, Name: ref.Name})
	}
	c.addClaims(claimsByVolume, v.Name)
	if v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable {
		c.addClaims(claimsByClass, storage.GetPersistentVolumeClass(v))
	}
}

// claimChanged queues the claim and the volumes that name it or are named by it.
func (c *controller) claimChanged(obj any) {
	claim := object[corev1.PersistentVolumeClaim](obj)
	if claim == nil {
		return
	}
	name := cache.MetaObjectToName(claim)
	c.addClaim(name)
	if claim.Spec.VolumeName != "" {
		c.addVolume(claim.Spec.VolumeName)
	}
	for _, v := range indexed[corev1.PersistentVolume](c.volumeIndex, volumesByClaim, name.String()) {
		c.addVolume(v.Name)
	}
}

// classChanged queues the unbound claims of the class, and those without one, which it may be the default for.
func (c *controller) classChanged(obj any) {
	if class, ok := obj.(*storagev1.StorageClass); ok {
		c.addClaims(claimsByClass, class.Name)
		c.addClaims(claimsByClass, "")
	}
}

func (c *controller) addClaims(index, value string) {
	for _, claim := range indexed[corev1.PersistentVolumeClaim](c.claimIndex, index, value) {
		c.addClaim(cache.MetaObjectToName(claim))
	}
}

func (c *controller) sync(ctx context.Context, k key) error {
	if k.volume {
		v, err := c.volumes.Get(k.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read volume: %w", err)
		}
		return settled(c.syncVolume(ctx, v))
	}
	if !c.written[k.ObjectName].Shown() {
		return nil // its event queues the claim
	}
	delete(c.written, k.ObjectName)
	claim, err := c.claims.PersistentVolumeClaims(k.Namespace).Get(k.ObjectName.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	err = c.syncClaim(ctx, claim)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return &engine.Retry{After: raced, Why: err.Error()}
	}
	return err
}

// wrote notes that the claim, or a volume for it, was written. A claim that was looked at again before that is seen could be given a second
// volume.
func (c *controller) wrote(claim *corev1.PersistentVolumeClaim, seenBy written.Store, version string) {
	name := cache.MetaObjectToName(claim)
	if c.written[name] == nil {
		c.written[name] = written.Versions{}
	}
	c.written[name].Add(seenBy, version)
}

// settled turns errors into nil that events will tell more about: somebody else has written the object, or it is gone.
func settled(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// object is what an informer's handler was called with, nil if that is of another kind.
func object[T any](obj any) *T {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	o, _ := obj.(*T)
	return o
}

// indexed lists what an index has for a value. The indexes are made in New, so there is no error.
func indexed[T any](i cache.Indexer, index, value string) []*T {
	list, err := i.ByIndex(index, value)
	if err != nil {
		return nil
	}
	out := make([]*T, 0, len(list))
	for _, obj := range list {
		if o, ok := obj.(*T); ok {
			out = append(out, o)
		}
	}
	return out
}
