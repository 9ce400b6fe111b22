package noderestriction

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

func newNode(r request, node *corev1.Node) error {
	//lint:ignore SA1019 the field does nothing any more, but it can still be written
	if node.Spec.ConfigSource != nil {
		return r.forbid("node %q is not allowed to create pods with a non-nil configSource", r.node)
	}
	if forbidden := ForbiddenLabels(node.Labels, nil); len(forbidden) > 0 {
		return r.forbid("node %q is not allowed to set the following labels: %s", r.node, strings.Join(forbidden, ", "))
	}
	return nil
}

func changedNode(r request, node, old *corev1.Node) error {
	//lint:ignore SA1019 the field does nothing any more, but it can still be written
	if node.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(node.Spec.ConfigSource, old.Spec.ConfigSource) {
		return r.forbid("node %q is not allowed to update configSource to a new non-nil configSource", r.node)
	}
	// Without its taints a node draws workloads that were to be kept from it.
	if !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
		return r.forbid("node %q is not allowed to modify taints", r.node)
	}
	if forbidden := ForbiddenLabels(node.Labels, old.Labels); len(forbidden) > 0 {
		return r.forbid("is not allowed to modify labels: %s", strings.Join(forbidden, ", "))
	}
	// With an owner that is not there the node has itself deleted and comes again, without its taints and labels.
	if !equality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences) {
		return r.forbid("node %q is not allowed to modify ownerReferences", r.node)
	}
	return nil
}

// ForbiddenLabels lists, sorted, the labels that differ and that a node may not set, change or remove: those kept from
// nodes by their name, and those of Kubernetes' own domains that are not the kubelet's.
func ForbiddenLabels(labels, old map[string]string) []string {
	var list []string
	check := func(key string) {
		domain, _, found := strings.Cut(key, "/")
		if !found {
			return
		}
		kept := within(domain, corev1.LabelNamespaceNodeRestriction)
		ours := within(domain, "kubernetes.io") || within(domain, "k8s.io")
		if kept || ours && !kubeletapis.IsKubeletLabel(key) {
			list = append(list, key)
		}
	}
	for k, v := range labels {
		if was, had := old[k]; !had || was != v {
			check(k)
		}
	}
	for k := range old {
		if _, has := labels[k]; !has {
			check(k)
		}
	}
	slices.Sort(list)
	return list
}

// within says whether a domain is parent or below it.
func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}
