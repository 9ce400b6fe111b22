// Package volumeprotection keeps what is in use: a claim that is deleted stays until no Pod uses it, a volume until it is
// not bound, a class of volume attributes until neither claim nor volume names it. The finalizers are set by admission; here
// they are set on what came around it, and taken off at the right time.
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
	ClaimName      = "pvc-protection-controller"
	VolumeName     = "pv-protection-controller"
	AttributesName = "volumeattributesclass-protection-controller"
)

// The finalizers.
const (
	claimFinalizer      = "kubernetes.io/pvc-protection"
	volumeFinalizer     = "kubernetes.io/pv-protection"
	attributesFinalizer = "kubernetes.io/vac-protection"
)

// object is an API object of type *T.
type object[T any] interface {
	*T
	metav1.Object
	DeepCopy() *T
}

// protect sets the finalizer on an object that is to stay, and takes it off one that is being deleted and that nobody uses.
// That somebody does is no error: the event of its release asks again. what names the object in errors.
func protect[T any, P object[T]](ctx context.Context, what, finalizer string, o P, used func() (bool, error),
	update func(context.Context, *T, metav1.UpdateOptions) (*T, error)) error {
	has, deleted := slices.Contains(o.GetFinalizers(), finalizer), o.GetDeletionTimestamp() != nil
	if has != deleted {
		return nil
	}
	if deleted {
		if used, err := used(); err != nil || used {
			return err
		}
	}
	changed := P(o.DeepCopy())
	if deleted {
		changed.SetFinalizers(slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer }))
	} else {
		changed.SetFinalizers(append(slices.Clone(o.GetFinalizers()), finalizer))
	}
	// Of what has changed or gone meanwhile, events tell more.
	if _, err := update(ctx, changed, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("change finalizers of %s %s: %w", what, cache.MetaObjectToName(o), err)
	}
	return nil
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
		bound := func() (bool, error) { return v.Status.Phase == corev1.VolumeBound, nil }
		return protect(ctx, "volume", volumeFinalizer, v, bound, d.Client.CoreV1().PersistentVolumes().Update)
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
	used := func() (bool, error) { return c.used(ctx, claim) }
	return protect(ctx, "claim", claimFinalizer, claim, used, c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update)
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
