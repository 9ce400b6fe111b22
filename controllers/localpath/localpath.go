// Package localpath is the controller of the built-in provisioner: it makes PersistentVolumes of local directories for claims
// whose Pods have a node, lets them grow, and deletes those whose claims are gone. The directories are for the nodes to make and remove
// (internal/localpath says how they work together).
//
// The source is local and not hostPath: a local volume cannot be without node affinity, and kubelets give it to a Pod's
// fsGroup.
package localpath

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
)

// Name is that of the service account in kube-system as which the controller acts.
const Name = "local-path-provisioner"

// quarantine is how long a Node must have been away before its volumes are given up: a kubelet whose Node was deleted makes
// it again.
const quarantine = 40 * time.Second

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
	nodes    corelisters.NodeLister
	queue    *engine.Queue[key]
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	volumes, claims := d.Informers.Core().V1().PersistentVolumes(), d.Informers.Core().V1().PersistentVolumeClaims()
	classes, nodes := d.Informers.Storage().V1().StorageClasses(), d.Informers.Core().V1().Nodes()
	c := &controller{client: d.Client, recorder: d.Recorder, volumes: volumes.Lister(), claims: claims.Lister(), classes: classes.Lister(), nodes: nodes.Lister()}
	c.queue = &engine.Queue[key]{Name: Name, Workers: 2, Sync: c.sync}
	for _, watch := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{volumes.Informer(), engine.OnSet(func(obj any) {
			if v, ok := obj.(*corev1.PersistentVolume); ok && localpath.Made(v) {
				c.queue.Add(key{true, cache.ObjectName{Name: v.Name}})
			}
		})},
		{claims.Informer(), engine.OnSet(func(obj any) {
			if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && (asks(claim) || claimgrowth.Wanted(claim)) {
				c.queue.Add(key{false, cache.MetaObjectToName(claim)})
			}
		})},
		{classes.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
			if s, ok := obj.(*storagev1.StorageClass); ok && s.Provisioner == localpath.Provisioner {
				c.waiting(func(claim *corev1.PersistentVolumeClaim) bool {
					return storage.GetPersistentVolumeClaimClass(claim) == s.Name
				})
			}
		}}},
		{nodes.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.nodeSet, UpdateFunc: c.nodeChanged, DeleteFunc: c.nodeGone}},
	} {
		seen, err := watch.informer.AddEventHandler(watch.handler)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.queue.Synced = append(c.queue.Synced, seen.HasSyncedChecker())
	}
	return c.queue, nil
}

// asks says whether the claim asks the provisioner for a volume.
func asks(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[storage.AnnStorageProvisioner] == localpath.Provisioner && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// waiting queues the claims that ask for a volume and are as said.
func (c *controller) waiting(are func(*corev1.PersistentVolumeClaim) bool) {
	list, err := c.claims.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, claim := range list {
		if asks(claim) && are(claim) {
			c.queue.Add(key{false, cache.MetaObjectToName(claim)})
		}
	}
}

// nodeSet queues the claims that wait for a node to say where its volumes are.
func (c *controller) nodeSet(obj any) {
	if n, ok := obj.(*corev1.Node); ok && n.Annotations[localpath.DirectoryAnnotation] != "" {
		c.waiting(func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Annotations[storage.AnnSelectedNode] == n.Name
		})
	}
}

func (c *controller) nodeChanged(old, now any) {
	was, ok := old.(*corev1.Node)
	is, isNode := now.(*corev1.Node)
	if ok && isNode && was.Annotations[localpath.DirectoryAnnotation] != is.Annotations[localpath.DirectoryAnnotation] {
		c.nodeSet(is)
	}
}

// nodeGone queues the node's volumes, for when it will not come back any more, and the claims that were to have one there.
func (c *controller) nodeGone(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return
	}
	list, err := c.volumes.List(labels.SelectorFromSet(labels.Set{localpath.NodeLabel: name.Name}))
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, v := range list {
		c.queue.AddAfter(key{true, cache.ObjectName{Name: v.Name}}, quarantine)
	}
	c.waiting(func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.Annotations[storage.AnnSelectedNode] == name.Name
	})
}

func (c *controller) sync(ctx context.Context, k key) error {
	if k.volume {
		return c.syncVolume(ctx, k.Name)
	}
	return c.syncClaim(ctx, k.ObjectName)
}
