package engine

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// Owners is a handler of events of objects that queues their owners of a kind: the controller of an object, the one it had
// before, and for an object without one all that would adopt it, which Suitors returns.
type Owners struct {
	Kind schema.GroupVersionKind
	Add  func(cache.ObjectName)
	// Suitors may be nil, where nothing is adopted.
	Suitors func(metav1.Object) []cache.ObjectName
}

var _ cache.ResourceEventHandler = Owners{}

// OnAdd implements cache.ResourceEventHandler.
func (w Owners) OnAdd(obj any, _ bool) {
	if p, ok := obj.(metav1.Object); ok {
		w.changed(p, true)
	}
}

// OnUpdate implements cache.ResourceEventHandler.
func (w Owners) OnUpdate(oldObj, newObj any) {
	old, ok := oldObj.(metav1.Object)
	p, isObject := newObj.(metav1.Object)
	if !ok || !isObject || old.GetResourceVersion() == p.GetResourceVersion() {
		return
	}
	before, now := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(p)
	moved := (before == nil) != (now == nil) || before != nil && before.UID != now.UID
	if moved && before != nil {
		w.owner(old, before)
	}
	w.changed(p, moved || !maps.Equal(old.GetLabels(), p.GetLabels()))
}

// OnDelete implements cache.ResourceEventHandler.
func (w Owners) OnDelete(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if p, ok := obj.(metav1.Object); ok {
		w.changed(p, false)
	}
}

// changed queues who is concerned by the object. free says whether one without a controller may have become adoptable.
func (w Owners) changed(p metav1.Object, free bool) {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		w.owner(p, ref)
		return
	}
	if !free || p.GetDeletionTimestamp() != nil || w.Suitors == nil {
		return
	}
	for _, name := range w.Suitors(p) {
		w.Add(name)
	}
}

func (w Owners) owner(p metav1.Object, ref *metav1.OwnerReference) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil && gv.Group == w.Kind.Group && ref.Kind == w.Kind.Kind {
		w.Add(cache.ObjectName{Namespace: p.GetNamespace(), Name: ref.Name})
	}
}
