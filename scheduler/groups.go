package scheduler

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// serviceChanged takes in that a Service appeared (old nil), changed, or went (new nil). How Pods are spread is a preference, so
// that none waits for it.
func (s *Scheduler) serviceChanged(old, new *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if groups := s.cluster.Known().Groups; new == nil {
		groups.RemoveService(old)
	} else {
		groups.SetService(new)
	}
}

func (s *Scheduler) replicationControllerChanged(old, new *corev1.ReplicationController) {
	selector := func(rc *corev1.ReplicationController) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
	}
	ownerChanged(s, corev1.SchemeGroupVersion.String(), "ReplicationController", old, new, selector)
}

func (s *Scheduler) replicaSetChanged(old, new *appsv1.ReplicaSet) {
	ownerChanged(s, appsv1.SchemeGroupVersion.String(), "ReplicaSet", old, new, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector })
}

func (s *Scheduler) statefulSetChanged(old, new *appsv1.StatefulSet) {
	ownerChanged(s, appsv1.SchemeGroupVersion.String(), "StatefulSet", old, new, func(ss *appsv1.StatefulSet) *metav1.LabelSelector { return ss.Spec.Selector })
}

// ownerChanged takes in that an owner of Pods appeared (old nil), changed, or went (new nil). Its selector changes with its
// generation only.
func ownerChanged[T any, P interface {
	*T
	metav1.Object
}](s *Scheduler, apiVersion, kind string, old, new P, selector func(P) *metav1.LabelSelector) {
	if old != nil && new != nil && old.GetUID() == new.GetUID() && old.GetGeneration() == new.GetGeneration() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := s.cluster.Known().Groups
	if new == nil {
		groups.RemoveOwner(framework.Owner{Namespace: old.GetNamespace(), APIVersion: apiVersion, Kind: kind, Name: old.GetName()})
		return
	}
	groups.SetOwner(framework.Owner{Namespace: new.GetNamespace(), APIVersion: apiVersion, Kind: kind, Name: new.GetName()}, selector(new))
}
