package pod

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/core/podspec"
)

// PrepareForCreate implements resource.CreatePreparer.
func (kind) PrepareForCreate(ctx context.Context, p *corev1.Pod) {
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(p)}
	// Admission may have chosen the account after the defaults were filled in.
	p.Spec.DeprecatedServiceAccount = p.Spec.ServiceAccountName
	podspec.DropInitContainerAnnotations(p.Annotations)
	podspec.DropDisabledFields(&p.Spec, nil)
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	mergeLabelKeys(p)
	syncAppArmor(ctx, p)
}

// PrepareForUpdate implements resource.UpdatePreparer.
func (kind) PrepareForUpdate(_ context.Context, p, old *corev1.Pod) {
	podspec.DropInitContainerAnnotations(p.Annotations)
	podspec.DropDisabledFields(&p.Spec, &old.Spec)
}

// PrepareForStatusUpdate implements resource.StatusPreparer. Labels, annotations and finalizers of the new object hold;
// owner references do not, because old kubelets garble them.
func (kind) PrepareForStatusUpdate(_ context.Context, p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.OwnerReferences = old.OwnerReferences
	p.DeletionTimestamp = old.DeletionTimestamp
	p.DeletionGracePeriodSeconds = old.DeletionGracePeriodSeconds
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
	keepObservedGenerations(&p.Status, &old.Status)
	podspec.DropDisabledStatusFields(&p.Status, &old.Status)
}

// keepObservedGenerations copies the generations that a writer unaware of them has left out. A condition type may occur
// more than once; its occurrences are paired in order.
func keepObservedGenerations(status, old *corev1.PodStatus) {
	if status.ObservedGeneration == 0 {
		status.ObservedGeneration = old.ObservedGeneration
	}
	known := map[corev1.PodConditionType][]int64{}
	for _, c := range old.Conditions {
		known[c.Type] = append(known[c.Type], c.ObservedGeneration)
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		was := known[c.Type]
		if len(was) == 0 {
			continue
		}
		known[c.Type] = was[1:]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = was[0]
		}
	}
}

// mergeLabelKeys turns matchLabelKeys and mismatchLabelKeys, which name labels of the Pod itself, into requirements of
// the selectors beside them, so that the scheduler needs to look at selectors only.
func mergeLabelKeys(p *corev1.Pod) {
	if a := p.Spec.Affinity; a != nil {
		var terms []*corev1.PodAffinityTerm
		if a.PodAffinity != nil {
			terms = affinityTerms(terms, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
				a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms = affinityTerms(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
				a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		for _, t := range terms {
			requireLabels(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
			requireLabels(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, p.Labels)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		requireLabels(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
	}
}

func affinityTerms(terms []*corev1.PodAffinityTerm, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) []*corev1.PodAffinityTerm {
	for i := range preferred {
		terms = append(terms, &preferred[i].PodAffinityTerm)
	}
	for i := range required {
		terms = append(terms, &required[i])
	}
	return terms
}

// requireLabels adds a requirement to selector for each of keys that labels has. A nil selector matches nothing and
// stays so.
func requireLabels(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(slices.Clip(selector.MatchExpressions),
				metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}
