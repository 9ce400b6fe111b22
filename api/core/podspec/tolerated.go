package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// tolerated says which rules do not hold, because the object that is updated was against them when they came. The zero
// value is strict.
type tolerated struct {
	// hugePages need not be whole pages.
	hugePages bool
	// podSelectors, nodeSelectors and spreadSelectors may hold values that no label can have.
	podSelectors, nodeSelectors, spreadSelectors bool
	// spreadKeys may be in the selector of a spread constraint too, if they were not merged into it.
	spreadKeys bool
	// tokenPaths may lead out of the volume.
	tokenPaths bool
	// hostSysctls may be set in namespaces that are the host's.
	hostSysctls bool
	// deletionCost need not be a number.
	deletionCost bool
	// addresses may be written as they were, however oddly.
	addresses []string
}

func toleratedOf(o Options) tolerated {
	var t tolerated
	if o.OldMeta != nil {
		_, err := deletionCost(o.OldMeta.Annotations)
		t.deletionCost = err != nil
	}
	old := o.Old
	if old == nil {
		return t
	}
	t.hugePages = brokenHugePages(old)
	t.podSelectors = brokenPodSelectors(old)
	t.nodeSelectors = brokenNodeSelectors(old)
	for i := range old.TopologySpreadConstraints {
		c := &old.TopologySpreadConstraints[i]
		t.spreadSelectors = t.spreadSelectors || len(v.LabelSelector(c.LabelSelector, false, nil)) > 0
		t.spreadKeys = t.spreadKeys || len(checkLabelKeys(c.MatchLabelKeys, nil, c.LabelSelector, field.NewPath("old"))) > 0
	}
	for i := range old.Volumes {
		if old.Volumes[i].Projected == nil {
			continue
		}
		for _, src := range old.Volumes[i].Projected.Sources {
			t.tokenPaths = t.tokenPaths || src.ServiceAccountToken != nil && len(v.NonReservedPath(src.ServiceAccountToken.Path, nil)) > 0
		}
	}
	if old.SecurityContext != nil {
		for _, s := range old.SecurityContext.Sysctls {
			t.hostSysctls = t.hostSysctls || checkHostSysctl(s.Name, old, nil) != nil
		}
	}
	if old.DNSConfig != nil {
		t.addresses = append(t.addresses, old.DNSConfig.Nameservers...)
	}
	for _, a := range old.HostAliases {
		t.addresses = append(t.addresses, a.IP)
	}
	return t
}

func brokenHugePages(s *corev1.PodSpec) bool {
	broken := func(l corev1.ResourceList) bool {
		for name, q := range l {
			if v.IsHugePages(name) && v.HugePagesDivisible(name, q) != nil {
				return true
			}
		}
		return false
	}
	found := broken(s.Overhead)
	visit(s, nil, func(c *corev1.Container, _ *field.Path) {
		found = found || broken(c.Resources.Limits) || broken(c.Resources.Requests)
	})
	return found
}

func brokenPodSelectors(s *corev1.PodSpec) bool {
	if s.Affinity == nil {
		return false
	}
	broken := func(selectors ...*metav1.LabelSelector) bool {
		for _, sel := range selectors {
			if len(v.LabelSelector(sel, false, nil)) > 0 {
				return true
			}
		}
		return false
	}
	for _, t := range affinityTerms(s.Affinity) {
		if broken(t.LabelSelector, t.NamespaceSelector) {
			return true
		}
	}
	return false
}

func affinityTerms(a *corev1.Affinity) []*corev1.PodAffinityTerm {
	var terms []*corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms
}

func brokenNodeSelectors(s *corev1.PodSpec) bool {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	for _, t := range s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, e := range t.MatchExpressions {
			for _, value := range e.Values {
				if len(v.LabelValue(value, nil)) > 0 {
					return true
				}
			}
		}
	}
	return false
}
