// Package ephemeralvolume makes the claims of generic ephemeral volumes: a claim for each, named after Pod and volume, that
// the Pod owns, so that the garbage collector takes it when the Pod goes.
package ephemeralvolume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "ephemeral-volume-controller"

var kind = corev1.SchemeGroupVersion.WithKind("Pod")

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	pods     corelisters.PodLister
	claims   corelisters.PersistentVolumeClaimLister
}

// New returns the controller. A key is a Pod; a claim that is deleted queues the Pods that name it.
func New(d engine.Deps) (engine.Runner, error) {
	podInformer, claims := d.Informers.Core().V1().Pods(), d.Informers.Core().V1().PersistentVolumeClaims()
	c := &controller{client: d.Client, recorder: d.Recorder, pods: podInformer.Lister(), claims: claims.Lister()}
	loop := &engine.Loop{Name: Name, Workers: 2, Sync: c.sync}
	if err := pods.IndexClaims(podInformer.Informer()); err != nil {
		return nil, err
	}
	// A Pod's volumes do not change, so neither do its claims.
	podsSeen, err := podInformer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if p, ok := obj.(*corev1.Pod); ok && hasEphemeral(p) {
			loop.Add(cache.MetaObjectToName(p))
		}
	}})
	if err != nil {
		return nil, err
	}
	claimsSeen, err := claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		name, err := cache.DeletionHandlingObjectToName(obj)
		if err != nil {
			return
		}
		users, err := pods.UsersOf(podInformer.Informer().GetIndexer(), name)
		if err != nil {
			return // an index that was made above does not fail
		}
		for _, p := range users {
			if hasEphemeral(p) {
				loop.Add(cache.MetaObjectToName(p))
			}
		}
	}})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{podsSeen.HasSyncedChecker(), claimsSeen.HasSyncedChecker()}
	return loop, nil
}

func hasEphemeral(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil })
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	p, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && p.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod: %w", err)
	}
	var errs []error
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		if err := c.provide(ctx, p, v); err != nil {
			c.recorder.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			errs = append(errs, fmt.Errorf("ephemeral volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

// provide makes the claim of a volume where there is none.
func (c *controller) provide(ctx context.Context, p *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(p, v)
	claim, err := c.claims.PersistentVolumeClaims(p.Namespace).Get(name)
	if err == nil {
		return ephemeral.VolumeIsForPod(p, claim)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	t := v.Ephemeral.VolumeClaimTemplate
	claim = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: t.Annotations, Labels: t.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, kind)}},
		Spec: t.Spec,
	}
	if _, err = c.client.CoreV1().PersistentVolumeClaims(p.Namespace).Create(ctx, claim, metav1.CreateOptions{}); err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there, and the Pod goes too
		}
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
