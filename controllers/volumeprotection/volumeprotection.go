// Package volumeprotection keeps what is in use: a claim that is deleted stays until no Pod uses it, a volume until it is
// not bound. The finalizers are set by admission; here they are set on what came around it, and taken off at the right time.
package volumeprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Names of the service accounts in kube-system as which the controllers act; upstream's, so that the bootstrap roles of the
// same names fit.
const (
	ClaimName  = "pvc-protection-controller"
	VolumeName = "pv-protection-controller"
)

// The finalizers.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

// step is what is to be done about an object's finalizer.
type step int

const (
	leave step = iota
	add
	// consider: the object is being deleted, and the finalizer may be what holds it.
	consider
)

func next(o metav1.Object, finalizer string) step {
	switch has := slices.Contains(o.GetFinalizers(), finalizer); {
	case o.GetDeletionTimestamp() == nil && !has:
		return add
	case o.GetDeletionTimestamp() != nil && has:
		return consider
	}
	return leave
}

func with(o metav1.Object, finalizer string) {
	o.SetFinalizers(append(slices.Clone(o.GetFinalizers()), finalizer))
}

func without(o metav1.Object, finalizer string) {
	o.SetFinalizers(slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer }))
}

// settled turns errors into nil that events will tell more about.
func settled(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// NewVolumes returns the controller of volumes. A key is a volume.
func NewVolumes(d engine.Deps) (engine.Runner, error) {
	volumes := d.Informers.Core().V1().PersistentVolumes()
	loop := &engine.Loop{Name: VolumeName}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		v, err := volumes.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read volume: %w", err)
		}
		change := with
		switch next(v, volumeFinalizer) {
		case leave:
			return nil
		case consider:
			if v.Status.Phase == corev1.VolumeBound {
				return nil // the event of its release queues it
			}
			change = without
		}
		v = v.DeepCopy()
		change(v, volumeFinalizer)
		if _, err = d.Client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
			return settled(fmt.Errorf("change finalizers of volume %s: %w", v.Name, err))
		}
		return nil
	}
	seen, err := volumes.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{seen.HasSyncedChecker()}
	return loop, nil
}

type claims struct {
	client  kubernetes.Interface
	lister  corelisters.PersistentVolumeClaimLister
	byClaim cache.Indexer
	loop    *engine.Loop
}

// NewClaims returns the controller of claims. A key is a claim; a Pod that ends or goes queues those that it names.
func NewClaims(d engine.Deps) (engine.Runner, error) {
	informer, podInformer := d.Informers.Core().V1().PersistentVolumeClaims(), d.Informers.Core().V1().Pods().Informer()
	c := &claims{client: d.Client, lister: informer.Lister(), byClaim: podInformer.GetIndexer(), loop: &engine.Loop{Name: ClaimName, Workers: 2}}
	c.loop.Sync = c.sync
	if err := pods.IndexClaims(podInformer); err != nil {
		return nil, err
	}
	claimsSeen, err := informer.Informer().AddEventHandler(engine.OnSet(engine.Object(c.loop)))
	if err != nil {
		return nil, err
	}
	podsSeen, err := podInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			// A Pod of the same name may have taken the place of one that went unseen.
			if was, ok := old.(*corev1.Pod); ok {
				if p, ok := now.(*corev1.Pod); ok && (p.UID != was.UID || shutDown(p)) {
					c.freed(was)
				}
			}
		},
		DeleteFunc: c.freed,
	})
	if err != nil {
		return nil, err
	}
	c.loop.Synced = []cache.DoneChecker{claimsSeen.HasSyncedChecker(), podsSeen.HasSyncedChecker()}
	return c.loop, nil
}

// freed queues the claims of a Pod that needs them no longer.
func (c *claims) freed(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if p, ok := obj.(*corev1.Pod); ok {
		for _, name := range pods.ClaimNames(p) {
			c.loop.Add(cache.ObjectName{Namespace: p.Namespace, Name: name})
		}
	}
}

func (c *claims) sync(ctx context.Context, key cache.ObjectName) error {
	claim, err := c.lister.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	change := with
	switch next(claim, claimFinalizer) {
	case leave:
		return nil
	case consider:
		used, err := c.used(ctx, claim)
		if err != nil || used {
			return err
		}
		change = without
	}
	claim = claim.DeepCopy()
	change(claim, claimFinalizer)
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return settled(fmt.Errorf("change finalizers of claim %s: %w", key, err))
	}
	return nil
}

// used says whether a Pod uses the claim. That none does is only believed of the API: the informer may be behind.
func (c *claims) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	known, err := pods.UsersOf(c.byClaim, cache.MetaObjectToName(claim))
	if err != nil {
		return false, err
	}
	for _, p := range known {
		if uses(p, claim) {
			return true, nil
		}
	}
	list, err := c.client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	return slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return uses(&p, claim) }), nil
}

// uses says whether the Pod needs the claim. One that is not on a node yet will not come onto one: the claim is being
// deleted. The claim of an ephemeral volume is let go when the kubelet is through with the Pod, as the Pod's own finalizers
// may wait for the claim.
func uses(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		switch {
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ClaimName == claim.Name
		case v.Ephemeral != nil:
			return !shutDown(p) && ephemeral.VolumeClaimName(p, &v) == claim.Name && ephemeral.VolumeIsForPod(p, claim) == nil
		}
		return false
	})
}

// shutDown says whether the kubelet is through with the Pod, or it was deleted by force.
func shutDown(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}
