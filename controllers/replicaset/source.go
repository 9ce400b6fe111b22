package replicaset

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"
)

// replicaSets is the source of apps/v1 ReplicaSets.
type replicaSets struct {
	client kubernetes.Interface
	lister appslisters.ReplicaSetLister
}

func ofReplicaSet(rs *appsv1.ReplicaSet) (*set, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read selector of replica set %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return &set{owner: rs, selector: selector, spec: rs.Spec, status: rs.Status}, nil
}

func (r *replicaSets) get(namespace, name string) (*set, error) {
	rs, err := r.lister.ReplicaSets(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return ofReplicaSet(rs)
}

func (r *replicaSets) list(namespace string) ([]*set, error) {
	list, err := r.lister.ReplicaSets(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	out := make([]*set, 0, len(list))
	for _, rs := range list {
		if s, err := ofReplicaSet(rs); err == nil { // get tells of the error
			out = append(out, s)
		}
	}
	return out, nil
}

func (r *replicaSets) fresh(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return r.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (r *replicaSets) writeStatus(ctx context.Context, s *set) (metav1.Object, error) {
	rs := s.owner.(*appsv1.ReplicaSet).DeepCopy()
	rs.Status = s.status
	return r.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
}

// replicationControllers is the source of core/v1 ReplicationControllers.
type replicationControllers struct {
	client kubernetes.Interface
	lister corelisters.ReplicationControllerLister
}

func ofReplicationController(rc *corev1.ReplicationController) *set {
	s := &set{
		owner:    rc,
		selector: labels.SelectorFromSet(rc.Spec.Selector),
		spec:     appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds},
		status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas: rc.Status.ReadyReplicas, AvailableReplicas: rc.Status.AvailableReplicas,
			ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		s.spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		s.status.Conditions = append(s.status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return s
}

func (r *replicationControllers) get(namespace, name string) (*set, error) {
	rc, err := r.lister.ReplicationControllers(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return ofReplicationController(rc), nil
}

func (r *replicationControllers) list(namespace string) ([]*set, error) {
	list, err := r.lister.ReplicationControllers(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	out := make([]*set, 0, len(list))
	for _, rc := range list {
		out = append(out, ofReplicationController(rc))
	}
	return out, nil
}

func (r *replicationControllers) fresh(ctx context.Context, namespace, name string) (metav1.Object, error) {
	return r.client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (r *replicationControllers) writeStatus(ctx context.Context, s *set) (metav1.Object, error) {
	rc := s.owner.(*corev1.ReplicationController).DeepCopy()
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas: s.status.Replicas, FullyLabeledReplicas: s.status.FullyLabeledReplicas,
		ReadyReplicas: s.status.ReadyReplicas, AvailableReplicas: s.status.AvailableReplicas,
		ObservedGeneration: s.status.ObservedGeneration,
	}
	for _, c := range s.status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message,
		})
	}
	return r.client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
}

// wanted is how many Pods the set is to have.
func (s *set) wanted() int { return int(ptr.Deref(s.spec.Replicas, 1)) }

// siblings are the UIDs of the sets that serve the same purpose as s: those of the same controller, s among them.
func siblings(list []*set, s *set) map[types.UID]bool {
	out := map[types.UID]bool{s.owner.GetUID(): true}
	parent := metav1.GetControllerOfNoCopy(s.owner)
	if parent == nil {
		return out
	}
	for _, other := range list {
		same := func(ref metav1.OwnerReference) bool { return ptr.Deref(ref.Controller, false) && ref.UID == parent.UID }
		if slices.ContainsFunc(other.owner.GetOwnerReferences(), same) {
			out[other.owner.GetUID()] = true
		}
	}
	return out
}
