// Package namespace empties namespaces that are being deleted and then lets them go.
package namespace

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of
// the same name fits.
const Name = "namespace-controller"

// New returns the controller. A Terminating namespace is looked at when it changes and when a Pod of it goes; what else
// stands in the way (finalizers of other kinds) is looked at again after a while.
func New(d engine.Deps) (engine.Runner, error) {
	namespaces := d.Informers.Core().V1().Namespaces()
	e := emptier{client: d.Client, metadata: d.Metadata}
	loop := &engine.Loop{Name: Name, Workers: 4}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		ns, err := namespaces.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read namespace %s: %w", key.Name, err)
		}
		return e.finalize(ctx, ns.DeepCopy())
	}
	nsSynced, err := namespaces.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	podSynced, err := d.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: engine.Namespace(loop)})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{nsSynced.HasSyncedChecker(), podSynced.HasSyncedChecker()}
	return loop, nil
}

// remainingRetry is how long to wait where only finalizers, and no Pods, hold a namespace.
const remainingRetry = 5 * time.Second

// finalize deletes the content of ns and, once nothing is left, takes its "kubernetes" finalizer off. It changes ns.
func (e emptier) finalize(ctx context.Context, ns *corev1.Namespace) error {
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		updated, err := e.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("mark namespace %s as terminating: %w", ns.Name, err)
		}
		ns = updated
	}
	found := e.empty(ctx, ns)
	if conditions := found.conditions(ns.Status.Conditions, time.Now()); !slices.EqualFunc(conditions, ns.Status.Conditions, sameCondition) {
		ns.Status.Conditions = conditions
		updated, err := e.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("write status of namespace %s: %w", ns.Name, err)
		}
		ns = updated
	}
	if err := found.err(); err != nil {
		return err
	}
	if len(found.remaining) > 0 {
		klog.FromContext(ctx).V(2).Info("Namespace still has content", "namespace", ns.Name, "remaining", found.contentMessage())
		return &engine.Retry{After: remainingRetry, Why: "namespace " + ns.Name + " still has content"}
	}
	ns.Spec.Finalizers = slices.DeleteFunc(slices.Clone(ns.Spec.Finalizers), func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := e.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", ns.Name, err)
	}
	return nil
}

func sameCondition(a, b corev1.NamespaceCondition) bool {
	return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
}
