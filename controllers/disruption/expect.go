package disruption

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// countsPods says whether the budget takes the Pods that there are for those that there are to be, whoever owns them.
func countsPods(b *policyv1.PodDisruptionBudget) bool {
	return b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.Int
}

// reckon returns how many Pods there are to be, and how many of them healthy at least.
func (c *controller) reckon(ctx context.Context, b *policyv1.PodDisruptionBudget, list []*corev1.Pod) (expected, desired int, err error) {
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	if countsPods(b) {
		return len(list), least.IntValue(), nil
	}
	if expected, err = c.expected(ctx, list); err != nil {
		return 0, 0, err
	}
	switch {
	case most != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(most, expected, true)
		if err != nil {
			return 0, 0, fmt.Errorf("read maxUnavailable: %w", err)
		}
		return expected, max(0, expected-n), nil
	case least != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(least, expected, true)
		if err != nil {
			return 0, 0, fmt.Errorf("read minAvailable: %w", err)
		}
		return expected, n, nil
	}
	return expected, 0, nil
}

// expected adds up the sizes of the Pods' owners; Pods that none owns count nothing.
func (c *controller) expected(ctx context.Context, list []*corev1.Pod) (int, error) {
	seen, total := map[types.UID]bool{}, 0
	for _, p := range list {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil || seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		owner, n, err := c.size(ctx, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if owner == "" {
			return 0, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		if !seen[owner] || owner == ref.UID {
			total += n
		}
		seen[owner] = true
	}
	return total, nil
}

// size finds the size of a Pod's controller, or of the Deployment of its ReplicaSet, and whose it is: "" if there is none of the
// reference's UID. What is no built-in kind is asked for its scale.
func (c *controller) size(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, err
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	apps := c.informers.Apps().V1()
	var owner metav1.Object
	var replicas *int32
	switch gk {
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind():
		rs, getErr := apps.ReplicaSets().Lister().ReplicaSets(namespace).Get(ref.Name)
		if getErr == nil && rs.UID == ref.UID {
			if parent := metav1.GetControllerOfNoCopy(rs); parent != nil && parent.Kind == "Deployment" {
				return c.size(ctx, namespace, parent)
			}
			owner, replicas = rs, rs.Spec.Replicas
		}
		err = getErr
	case appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind():
		d, getErr := apps.Deployments().Lister().Deployments(namespace).Get(ref.Name)
		if getErr == nil {
			owner, replicas = d, d.Spec.Replicas
		}
		err = getErr
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind():
		set, getErr := apps.StatefulSets().Lister().StatefulSets(namespace).Get(ref.Name)
		if getErr == nil {
			owner, replicas = set, set.Spec.Replicas
		}
		err = getErr
	case corev1.SchemeGroupVersion.WithKind("ReplicationController").GroupKind():
		rc, getErr := c.informers.Core().V1().ReplicationControllers().Lister().ReplicationControllers(namespace).Get(ref.Name)
		if getErr == nil {
			owner, replicas = rc, rc.Spec.Replicas
		}
		err = getErr
	default:
		return c.scaleOf(ctx, gk, gv.Version, namespace, ref)
	}
	switch {
	case apierrors.IsNotFound(err) || err == nil && (owner == nil || owner.GetUID() != ref.UID):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	}
	return owner.GetUID(), int(ptr.Deref(replicas, 1)), nil
}

// scaleOf asks for the scale of a controller of any kind.
func (c *controller) scaleOf(ctx context.Context, gk schema.GroupKind, version, namespace string, ref *metav1.OwnerReference) (types.UID, int, error) {
	t, err := c.scales.Find(ctx, gk, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		has, resource, err := c.scales.Has(gk, version)
		if err == nil && !has {
			err = fmt.Errorf("%s does not implement the scale subresource", resource)
		}
		return "", 0, err
	}
	if err != nil {
		return "", 0, err
	}
	if t.Scale.UID != ref.UID {
		return "", 0, nil
	}
	return t.Scale.UID, int(t.Scale.Spec.Replicas), nil
}
