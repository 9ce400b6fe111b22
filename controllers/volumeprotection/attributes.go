package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
)

// byAttributes is the index of claims and of volumes by the classes of attributes that they name.
const byAttributes = "volumeattributesclass"

// attributesOf are the classes of attributes that a claim or a volume names. A claim may name three: the one that it is to have,
// the one that it has, and the one that its volume is being changed to.
func attributesOf(obj any) []string {
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		add(ptr.Deref(o.Spec.VolumeAttributesClassName, ""))
		add(ptr.Deref(o.Status.CurrentVolumeAttributesClassName, ""))
		if m := o.Status.ModifyVolumeStatus; m != nil {
			add(m.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		add(ptr.Deref(o.Spec.VolumeAttributesClassName, ""))
	}
	return names
}

type attributes struct {
	client kubernetes.Interface
	lister storagelisters.VolumeAttributesClassLister
	// users are the caches of claims and of volumes.
	users [2]cache.Indexer
	loop  *engine.Loop
}

// NewAttributes returns the controller of classes of volume attributes. A key is a class; a claim or a volume that names one no
// longer queues it.
func NewAttributes(d engine.Deps) (engine.Runner, error) {
	classes := d.Informers.Storage().V1().VolumeAttributesClasses()
	a := &attributes{client: d.Client, lister: classes.Lister(), loop: &engine.Loop{Name: AttributesName}}
	a.loop.Sync = a.sync
	seen, err := classes.Informer().AddEventHandler(engine.OnSet(engine.Object(a.loop)))
	if err != nil {
		return nil, fmt.Errorf("watch classes of volume attributes: %w", err)
	}
	a.loop.Synced = append(a.loop.Synced, seen.HasSyncedChecker())
	for i, informer := range []cache.SharedIndexInformer{
		d.Informers.Core().V1().PersistentVolumeClaims().Informer(), d.Informers.Core().V1().PersistentVolumes().Informer(),
	} {
		index := cache.Indexers{byAttributes: func(obj any) ([]string, error) { return attributesOf(obj), nil }}
		if err := informer.AddIndexers(index); err != nil {
			return nil, fmt.Errorf("index claims and volumes by class of attributes: %w", err)
		}
		seen, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, now any) { a.freed(attributesOf(old), attributesOf(now)) },
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				a.freed(attributesOf(obj), nil)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("watch claims and volumes: %w", err)
		}
		a.users[i] = informer.GetIndexer()
		a.loop.Synced = append(a.loop.Synced, seen.HasSyncedChecker())
	}
	return a.loop, nil
}

// freed queues the classes that were named and are not.
func (a *attributes) freed(were, are []string) {
	for _, name := range were {
		if !slices.Contains(are, name) {
			a.loop.Add(cache.ObjectName{Name: name})
		}
	}
}

func (a *attributes) sync(ctx context.Context, key cache.ObjectName) error {
	class, err := a.lister.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read class of volume attributes %s: %w", key.Name, err)
	}
	used := func() (bool, error) { return a.used(ctx, class) }
	return protect(ctx, "class of volume attributes", attributesFinalizer, class, used, a.client.StorageV1().VolumeAttributesClasses().Update)
}

// used says whether a claim or a volume names the class. That none does is only believed of the API: the informers may be behind.
func (a *attributes) used(ctx context.Context, class *storagev1.VolumeAttributesClass) (bool, error) {
	for _, known := range a.users {
		users, err := known.IndexKeys(byAttributes, class.Name)
		if err != nil || len(users) > 0 {
			return true, err
		}
	}
	claims, err := a.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list claims: %w", err)
	}
	for i := range claims.Items {
		if slices.Contains(attributesOf(&claims.Items[i]), class.Name) {
			return true, nil
		}
	}
	volumes, err := a.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list volumes: %w", err)
	}
	return slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return slices.Contains(attributesOf(&v), class.Name) }), nil
}
