// Package pods is what controllers that own Pods share: making Pods from templates, adopting and releasing them by their
// labels, knowing which of them the informer has yet to show, and choosing which to delete first.
package pods

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/engine"
)

// Owner is an object that owns Pods.
type Owner interface {
	runtime.Object
	metav1.Object
}

// byController is the index of Pods by the UID of the controller that owns them; Pods that none owns are under "".
const byController = "peapod.controller"

// Index is the Pods of the cluster by their controllers.
type Index struct {
	indexer cache.Indexer
	lister  corelisters.PodLister
}

// NewIndex adds the index to the shared informer of Pods, which must not have been started.
func NewIndex(factory informers.SharedInformerFactory) (*Index, error) {
	informer := factory.Core().V1().Pods()
	if _, ok := informer.Informer().GetIndexer().GetIndexers()[byController]; !ok {
		err := informer.Informer().AddIndexers(cache.Indexers{byController: func(obj any) ([]string, error) {
			p, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, nil
			}
			if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
				return []string{string(ref.UID)}, nil
			}
			return []string{p.Namespace + "/"}, nil
		}})
		if err != nil {
			return nil, fmt.Errorf("index pods by controller: %w", err)
		}
	}
	return &Index{informer.Informer().GetIndexer(), informer.Lister()}, nil
}

// of returns the Pods under an index value.
func (x *Index) of(value string) []*corev1.Pod {
	list, err := x.indexer.ByIndex(byController, value)
	if err != nil {
		return nil // only for an index that does not exist
	}
	out := make([]*corev1.Pod, 0, len(list))
	for _, obj := range list {
		if p, ok := obj.(*corev1.Pod); ok {
			out = append(out, p)
		}
	}
	return out
}

// Owned returns the Pods that the owner of the UID controls. They are shared: read only.
func (x *Index) Owned(uid types.UID) []*corev1.Pod { return x.of(string(uid)) }

// Orphans returns the Pods of a namespace that no controller owns.
func (x *Index) Orphans(namespace string) []*corev1.Pod { return x.of(namespace + "/") }

// Get returns a Pod.
func (x *Index) Get(namespace, name string) (*corev1.Pod, error) {
	return x.lister.Pods(namespace).Get(name)
}

// Control changes Pods in the name of owners of one kind.
type Control struct {
	Client   kubernetes.Interface
	Recorder record.EventRecorder
	Index    *Index
	// Kind is that of the owners.
	Kind schema.GroupVersionKind
	// Pending are the changes that the informer has yet to show.
	Pending *Pending
	// Finalizer, if not empty, is on Pods that are claimed; who sets it takes it off.
	Finalizer string
	// Member, if not nil, says what besides its labels makes a Pod one of the owner's.
	Member func(owner Owner, p *corev1.Pod) bool
	// Words, if not nil, words the events about a Pod instead of the usual way; err is nil for a success.
	Words func(verb, pod, owner string, err error) string
}

// words is the message of an event.
func (c *Control) words(verb, pod string, owner Owner, err error, usual string, arg any) string {
	if c.Words != nil {
		return c.Words(verb, pod, owner.GetName(), err)
	}
	return fmt.Sprintf(usual, arg)
}

// NewControl returns a control for owners of a kind, whose informer is given.
func NewControl(d engine.Deps, kind schema.GroupVersionKind, owners cache.SharedIndexInformer) (*Control, error) {
	x, err := NewIndex(d.Informers)
	if err != nil {
		return nil, err
	}
	return &Control{Client: d.Client, Recorder: d.Recorder, Index: x, Kind: kind, Pending: NewPending(x, owners.GetStore())}, nil
}

// FromTemplate returns a Pod of owner made from a template; it is not in the API yet.
func (c *Control) FromTemplate(owner Owner, t *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: owner.GetName() + "-",
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, c.Kind)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
}

// Create makes the Pod for owner, with an event either way. The informer is expected to show it.
func (c *Control) Create(ctx context.Context, owner Owner, p *corev1.Pod) (*corev1.Pod, error) {
	made, err := c.Client.CoreV1().Pods(owner.GetNamespace()).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		// A namespace that is going refuses Pods; that is nobody's failure.
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Recorder.Event(owner, corev1.EventTypeWarning, "FailedCreate", c.words("Create", p.Name, owner, err, "Error creating: %v", err))
		}
		return nil, err
	}
	c.Pending.created(owner, made)
	c.Recorder.Event(owner, corev1.EventTypeNormal, "SuccessfulCreate", c.words("Create", made.Name, owner, nil, "Created pod: %v", made.Name))
	return made, nil
}

// Delete deletes the Pod of owner, with an event either way. One that is gone is no error.
func (c *Control) Delete(ctx context.Context, owner Owner, p *corev1.Pod) error {
	err := c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		c.Recorder.Event(owner, corev1.EventTypeWarning, "FailedDelete", c.words("Delete", p.Name, owner, err, "Error deleting: %v", err))
		return fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	c.Pending.deleted(owner, p)
	c.Recorder.Event(owner, corev1.EventTypeNormal, "SuccessfulDelete", c.words("Delete", p.Name, owner, nil, "Deleted pod: %v", p.Name))
	return nil
}

// Active says whether the Pod runs, or may still.
func Active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil
}

// Terminating says whether the Pod is being deleted and may still run.
func Terminating(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp != nil
}

// Ready returns the Pod's Ready condition, nil if it is not true.
func Ready(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// Available says whether the Pod has been ready for minReadySeconds at now; if it is ready but not yet for so long, when it
// will be.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (ok bool, when time.Time) {
	c := Ready(p)
	if c == nil {
		return false, time.Time{}
	}
	when = c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second)
	return minReadySeconds == 0 || !c.LastTransitionTime.IsZero() && !when.After(now), when
}
