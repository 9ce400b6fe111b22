// Package localpath makes and removes the directories of the volumes that the built-in provisioner has put on this node. It
// knows of no other volumes, and may read none (internal/localpath says how the halves work together).
//
// Each volume is one directory, named after it, below the keeper's own. A directory is made when a Pod first mounts the
// volume, and removed when the volume is being deleted. Both steps may be repeated: what is still to be done is what the API
// says, so that nothing is lost when either side stops.
package localpath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/internal/queueclock"
)

// Back-off of a directory that cannot be removed.
const (
	retryFirst = 100 * time.Millisecond
	retryMax   = time.Minute
)

// Config is what a Keeper is made from; all of it is needed.
type Config struct {
	// Client acts as the node.
	Client   kubernetes.Interface
	NodeName string
	// Dir is the directory below which volumes are; absolute. It is made with the first volume.
	Dir string
	// Recorder records events as the kubelet.
	Recorder record.EventRecorder
}

// Keeper keeps the directories of one node's volumes.
type Keeper struct {
	cfg      Config
	informer informers.SharedInformerFactory
	queue    workqueue.TypedRateLimitingInterface[string]
	// mu is held while a directory is made or removed.
	mu sync.Mutex
}

// New makes a Keeper.
func New(cfg Config) *Keeper {
	own := labels.SelectorFromSet(labels.Set{localpath.NodeLabel: cfg.NodeName}).String()
	return &Keeper{
		cfg:      cfg,
		informer: informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = own })),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMax),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "local-path", Clock: queueclock.Clock{}}),
	}
}

// Provide makes the directory of a volume that is about to be mounted for the first time. For volumes that are not the
// keeper's, and for those whose directory it has made before, it does nothing: one that has vanished is not replaced by an
// empty one.
func (k *Keeper) Provide(ctx context.Context, v *corev1.PersistentVolume) error {
	if !k.mine(v) || v.Annotations[localpath.MadeAnnotation] != "" {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := makeDirectory(k.cfg.Dir, v.Name); err != nil {
		return fmt.Errorf("make directory of volume %s: %w", v.Name, err)
	}
	return k.patch(ctx, v, map[string]any{"annotations": map[string]string{localpath.MadeAnnotation: "true"}})
}

// mine says whether the volume is one of the provisioner's, on this node, and where this node has its volumes.
func (k *Keeper) mine(v *corev1.PersistentVolume) bool {
	return localpath.Ours(v, k.cfg.NodeName) && v.Spec.Local != nil && v.Spec.Local.Path == localpath.Path(k.cfg.Dir, v.Name)
}

// patch changes the volume's metadata, if it is still the same volume.
func (k *Keeper) patch(ctx context.Context, v *corev1.PersistentVolume, metadata map[string]any) error {
	metadata["uid"] = v.UID
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	if _, err := k.cfg.Client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("write volume %s: %w", v.Name, err)
	}
	return nil
}

// Run removes the directories of volumes that are being deleted, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	volumes := k.informer.Core().V1().PersistentVolumes()
	queue := func(obj any) {
		if v, ok := obj.(*corev1.PersistentVolume); ok && localpath.Doomed(v) {
			k.queue.Add(v.Name)
		}
	}
	_, err := volumes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: queue, UpdateFunc: func(_, obj any) { queue(obj) }})
	if err != nil {
		return fmt.Errorf("watch volumes: %w", err)
	}
	k.informer.StartWithContext(ctx)
	defer k.informer.Shutdown()
	stop := context.AfterFunc(ctx, k.queue.ShutDown)
	defer stop()
	for {
		name, ended := k.queue.Get()
		if ended {
			return nil
		}
		v, err := volumes.Lister().Get(name)
		switch {
		case apierrors.IsNotFound(err):
			err = nil
		case err == nil:
			err = k.remove(ctx, v)
		}
		if err == nil {
			k.queue.Forget(name)
		} else if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Volume is not removed, will retry", "volume", name)
			k.queue.AddRateLimited(name)
		}
		k.queue.Done(name)
	}
}

// remove removes the directory of a volume that is being deleted, and then what holds the volume.
func (k *Keeper) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	if !localpath.Ours(v, k.cfg.NodeName) || !localpath.Doomed(v) || !slices.Contains(v.Finalizers, localpath.Finalizer) {
		return nil
	}
	if !k.mine(v) {
		err := fmt.Errorf("its path is not %s, where node %s has it: remove the directory by hand, then the finalizer %s from the volume",
			localpath.Path(k.cfg.Dir, v.Name), k.cfg.NodeName, localpath.Finalizer)
		k.cfg.Recorder.Event(v, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
		return nil // its path does not change
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := removeDirectory(k.cfg.Dir, v.Name); err != nil {
		k.cfg.Recorder.Event(v, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
		return err
	}
	return k.letGo(ctx, v)
}

// letGo takes the finalizer off the volume, if its place among the finalizers is still what the informer shows. A patch of the whole
// list would bring back what others took off it meanwhile, which a node may not.
func (k *Keeper) letGo(ctx context.Context, v *corev1.PersistentVolume) error {
	at := fmt.Sprintf("/metadata/finalizers/%d", slices.Index(v.Finalizers, localpath.Finalizer))
	body, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": v.UID},
		{"op": "test", "path": at, "value": localpath.Finalizer},
		{"op": "remove", "path": at},
	})
	if err != nil {
		return err
	}
	_, err = k.cfg.Client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.JSONPatchType, body, metav1.PatchOptions{})
	if err == nil || apierrors.IsInvalid(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // where it is another now, its event brings it back
	}
	return fmt.Errorf("write volume %s: %w", v.Name, err)
}

var errNotDirectory = errors.New("is not a directory")
