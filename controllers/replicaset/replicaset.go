// Package replicaset keeps the declared number of Pods of ReplicaSets and ReplicationControllers: it makes missing ones,
// deletes surplus ones, adopts and releases Pods by their labels, and reports what there is.
package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/claim"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// Names are those of the service accounts in kube-system as which the controllers act; upstream's, so that the bootstrap
// roles of the same names fit.
const (
	Name            = "replicaset-controller"
	ReplicationName = "replication-controller"
)

// workers is how many sets are worked on at once, as upstream's default.
const workers = 5

// set is a ReplicaSet or a ReplicationController, told in the words of the former.
type set struct {
	// owner is the object as the API has it.
	owner    pods.Owner
	selector labels.Selector
	spec     appsv1.ReplicaSetSpec
	status   appsv1.ReplicaSetStatus
}

// source is where a kind of sets is read and written. What it reads is shared and must not be changed.
type source interface {
	// get reads a set from the informer.
	get(namespace, name string) (*set, error)
	// list reads all sets of a namespace from the informer.
	list(namespace string) ([]*set, error)
	// fresh reads a set's object from the API.
	fresh(ctx context.Context, namespace, name string) (metav1.Object, error)
	// writeStatus writes s.status, and returns the set's object as it is then.
	writeStatus(ctx context.Context, s *set) (metav1.Object, error)
}

// controller keeps the sets of one source.
type controller struct {
	source  source
	control *pods.Control
	loop    *engine.Loop
}

// New returns the controller of ReplicaSets.
func New(d engine.Deps) (engine.Runner, error) {
	informer := d.Informers.Apps().V1().ReplicaSets()
	control, err := pods.NewControl(d, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), informer.Informer())
	if err != nil {
		return nil, err
	}
	return newController(d, Name, control, &replicaSets{d.Client, informer.Lister()}, informer.Informer())
}

// NewReplication returns the controller of ReplicationControllers.
func NewReplication(d engine.Deps) (engine.Runner, error) {
	informer := d.Informers.Core().V1().ReplicationControllers()
	control, err := pods.NewControl(d, corev1.SchemeGroupVersion.WithKind("ReplicationController"), informer.Informer())
	if err != nil {
		return nil, err
	}
	return newController(d, ReplicationName, control, &replicationControllers{d.Client, informer.Lister()}, informer.Informer())
}

func newController(d engine.Deps, name string, control *pods.Control, from source, informer cache.SharedIndexInformer) (engine.Runner, error) {
	c := &controller{source: from, control: control, loop: &engine.Loop{Name: name, Workers: workers}}
	c.loop.Sync = c.sync
	sets, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    engine.Object(c.loop),
		UpdateFunc: func(_, obj any) { engine.Object(c.loop)(obj) },
		DeleteFunc: control.Pending.Forget,
	})
	if err != nil {
		return nil, fmt.Errorf("watch sets: %w", err)
	}
	seen, err := d.Informers.Core().V1().Pods().Informer().AddEventHandler(
		engine.Owners{Kind: control.Kind, Add: c.loop.Add, Suitors: c.suitors})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	c.loop.Synced = []cache.DoneChecker{sets.HasSyncedChecker(), seen.HasSyncedChecker()}
	return c.loop, nil
}

// suitors are the sets that may want to adopt the Pod.
func (c *controller) suitors(p metav1.Object) []cache.ObjectName {
	list, err := c.source.list(p.GetNamespace())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	var out []cache.ObjectName
	for _, s := range list {
		if claim.Matches(s.selector, p.GetLabels()) {
			out = append(out, cache.MetaObjectToName(s.owner))
		}
	}
	return out
}

// isOver says whether an error of a write means that an event will queue the set again, or that there is none any more.
func isOver(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }
