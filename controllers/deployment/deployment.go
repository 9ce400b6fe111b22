// Package deployment rolls out Deployments: it makes a ReplicaSet for each version of the Pod template, moves Pods from the
// old ones to the new one as the strategy says, keeps the history that a rollback needs, and reports progress.
//
// What to do is decided by pure functions (rolling.go, scale.go, status.go) from what the informers show; a sync carries
// it out with optimistic locks and writes the status once.
package deployment

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/claim"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "deployment-controller"

// workers is how many Deployments are worked on at once, as upstream's default.
const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

type controller struct {
	client      kubernetes.Interface
	recorder    record.EventRecorder
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	pods        *pods.Index
	loop        *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	deployments, sets := d.Informers.Apps().V1().Deployments(), d.Informers.Apps().V1().ReplicaSets()
	index, err := pods.NewIndex(d.Informers)
	if err != nil {
		return nil, err
	}
	c := &controller{
		client: d.Client, recorder: d.Recorder, deployments: deployments.Lister(), sets: sets.Lister(), pods: index,
		loop: &engine.Loop{Name: Name, Workers: workers},
	}
	c.loop.Sync = c.sync
	mine, err := deployments.Informer().AddEventHandler(engine.OnSet(engine.Object(c.loop)))
	if err != nil {
		return nil, fmt.Errorf("watch deployments: %w", err)
	}
	theirs, err := sets.Informer().AddEventHandler(engine.Owners{Kind: kind, Add: c.loop.Add, Suitors: c.suitors})
	if err != nil {
		return nil, fmt.Errorf("watch replica sets: %w", err)
	}
	// Recreate waits for the old Pods to be gone, which no ReplicaSet tells.
	ending, err := d.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			before, ok := old.(*corev1.Pod)
			p, isPod := now.(*corev1.Pod)
			if ok && isPod && !ended(before) && ended(p) {
				c.podEnded(p)
			}
		},
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				c.podEnded(p)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	c.loop.Synced = []cache.DoneChecker{mine.HasSyncedChecker(), theirs.HasSyncedChecker(), ending.HasSyncedChecker()}
	return c.loop, nil
}

// ended says whether all containers of the Pod have ended for good.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// podEnded queues the Deployment of a Pod that has ended, if its next ReplicaSet waits for that.
func (c *controller) podEnded(p *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(p.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return // gone with its Deployment
	}
	parent := metav1.GetControllerOfNoCopy(rs)
	if parent == nil || parent.Kind != kind.Kind {
		return
	}
	d, err := c.deployments.Deployments(p.Namespace).Get(parent.Name)
	if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.Add(cache.MetaObjectToName(d))
	}
}

// suitors are the Deployments that may want to adopt the ReplicaSet.
func (c *controller) suitors(rs metav1.Object) []cache.ObjectName {
	list, err := c.deployments.Deployments(rs.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	return claim.Suitors(rs, list, func(x *appsv1.Deployment) *metav1.LabelSelector { return x.Spec.Selector })
}

// isOver says whether an error of a write means that what was decided on is no more: the event that says so queues the
// Deployment again.
func isOver(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }
