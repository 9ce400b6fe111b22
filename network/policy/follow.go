package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Cluster are informers of all Pods and Namespaces.
type Cluster struct {
	Pods, Namespaces cache.SharedIndexInformer
	// Wait returns when they have ended, after the context with which they were asked for.
	Wait func()
}

// Shared returns a Cluster of informers that somebody else starts and that run anyway.
func Shared(f informers.SharedInformerFactory) func(context.Context) Cluster {
	return func(context.Context) Cluster {
		return Cluster{Pods: f.Core().V1().Pods().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Wait: func() {}}
	}
}

// Own returns a Cluster of informers of their own, which keep of each object only what policies look at.
func Own(client kubernetes.Interface) func(context.Context) Cluster {
	return func(ctx context.Context) Cluster {
		f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
		c := Cluster{Pods: f.Core().V1().Pods().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Wait: f.Shutdown}
		f.StartWithContext(ctx)
		return c
	}
}

// trim leaves out what subjectOf and groups do not read.
func trim(obj any) (any, error) {
	meta := func(m *metav1.ObjectMeta) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
			CreationTimestamp: m.CreationTimestamp, Labels: m.Labels}
	}
	containers := func(all []corev1.Container) []corev1.Container {
		var out []corev1.Container
		for i := range all {
			if c := &all[i]; slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name != "" }) {
				out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
			}
		}
		return out
	}
	switch o := obj.(type) {
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: meta(&o.ObjectMeta)}, nil
	case *corev1.Pod:
		return &corev1.Pod{
			ObjectMeta: meta(&o.ObjectMeta),
			Spec: corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork,
				Containers: containers(o.Spec.Containers), InitContainers: containers(o.Spec.InitContainers)},
			Status: corev1.PodStatus{Phase: o.Status.Phase, PodIPs: o.Status.PodIPs},
		}, nil
	}
	return obj, nil
}

// following is a Cluster that is being followed.
type following struct {
	Cluster
	end           func()
	registrations [2]cache.ResourceEventHandlerRegistration // Pods, Namespaces
}

// object returns what the informer has under a key; nil for nothing.
func object(from cache.SharedIndexInformer, key string) any {
	obj, _, err := from.GetStore().GetByKey(key)
	if err != nil {
		return nil // no store of an informer fails
	}
	return obj
}

// follow has changes of Pods and Namespaces noticed from now on, and waits until all are known.
func (e *Enforcer) follow(ctx context.Context) error {
	if e.following != nil {
		return nil
	}
	within, end := context.WithCancel(ctx)
	f := &following{Cluster: e.cfg.Cluster(within), end: end}
	e.following = f
	e.mu.Lock()
	e.attentive = true
	for name := range e.known {
		e.dirty.policies[name] = true
	}
	for name := range e.given {
		e.dirty.pods[name] = true
	}
	e.mu.Unlock()
	var err error
	f.registrations[0], err = f.Pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: e.podChanged, DeleteFunc: e.podChanged,
		UpdateFunc: func(old, obj any) {
			if was, is := old.(*corev1.Pod), obj.(*corev1.Pod); !alike(was, is) {
				e.podChanged(obj)
			}
		},
	})
	if err == nil {
		f.registrations[1], err = f.Namespaces.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: e.namespaceChanged, DeleteFunc: e.namespaceChanged, UpdateFunc: func(_, obj any) { e.namespaceChanged(obj) },
		})
	}
	if err != nil {
		e.leave()
		return fmt.Errorf("watch pods and namespaces: %w", err)
	}
	if !cache.WaitFor(ctx, "", f.registrations[0].HasSyncedChecker(), f.registrations[1].HasSyncedChecker()) {
		e.leave()
		return errors.New("wait for all pods and namespaces: ended before they were known")
	}
	return nil
}

// leave ends it, and forgets what was learnt.
func (e *Enforcer) leave() {
	f := e.following
	if f == nil {
		return
	}
	for i, from := range []cache.SharedIndexInformer{f.Pods, f.Namespaces} {
		if r := f.registrations[i]; r != nil {
			_ = from.RemoveEventHandler(r) // it fails for handlers of others only
		}
	}
	f.end()
	f.Wait()
	e.following, e.state = nil, newState(e.cfg.families())
	if e.kernel == applied {
		e.kernel = unknown // what is there is not what the state says
	}
	e.mu.Lock()
	e.dirty, e.attentive = newDirty(), false
	e.mu.Unlock()
}

func (e *Enforcer) podChanged(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.dirty.pods[name.AsNamespacedName()] = true
		e.bell.Ring()
	}
}

func (e *Enforcer) namespaceChanged(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.dirty.namespaces[name.Name] = true
		e.bell.Ring()
	}
}

// alike says whether two versions of a Pod give the same rules.
func alike(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Spec.NodeName == b.Spec.NodeName && a.Status.Phase == b.Status.Phase &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && labels.Equals(a.Labels, b.Labels)
}

// givenOf are the names under which the state has the Pods of a name that have addresses of this node.
func (s *state) givenOf(name types.NamespacedName) []types.NamespacedName {
	var out []types.NamespacedName
	for _, pod := range s.pods[name.Namespace] {
		if pod.adopted && pod.NamespacedName == name {
			out = append(out, pod.key())
		}
	}
	return out
}
