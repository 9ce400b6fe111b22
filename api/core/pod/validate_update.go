package pod

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	v "github.com/peapod/peapod/api/validation"
)

// changeable lists, in the words of the error, the fields of a spec that an update may change.
var changeable = strings.Join([]string{
	"`spec.containers[*].image`",
	"`spec.initContainers[*].image`",
	"`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

// ValidateUpdate implements resource.UpdateValidator: of a Pod's spec next to nothing may change, and of that each field
// by a rule of its own.
func (kind) ValidateUpdate(_ context.Context, p, old *corev1.Pod) field.ErrorList {
	errs := validate(p, old)
	errs = append(errs, validateAnnotationsUpdate(p, old)...)
	for _, list := range []struct {
		name     string
		new, old []corev1.Container
	}{
		{"containers", p.Spec.Containers, old.Spec.Containers},
		{"initContainers", p.Spec.InitContainers, old.Spec.InitContainers},
	} {
		path := specPath.Child(list.name)
		if len(list.new) != len(list.old) {
			return append(errs, field.Forbidden(path, "pod updates may not add or remove containers"))
		}
		for i, c := range list.new {
			errs = append(errs, v.Required(c.Image, path.Index(i).Child("image"))...)
			if strings.TrimSpace(c.Image) != c.Image {
				errs = append(errs, field.Invalid(path.Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace"))
			}
		}
	}
	deadline, stop := validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	errs = append(errs, deadline...)
	if stop {
		return errs
	}
	errs = append(errs, validateTolerationsUpdate(p.Spec.Tolerations, old.Spec.Tolerations)...)
	errs = append(errs, validateGatesUpdate(p.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	if resource.Equal(&p.Spec, &old.Spec) {
		return errs
	}
	// What may change is put back as it was; whatever then differs may not.
	rest := p.Spec.DeepCopy()
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(rest, &old.Spec)...)
	}
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	was, is := old.Spec.TerminationGracePeriodSeconds, rest.TerminationGracePeriodSeconds
	if was != nil && *was < 0 && is != nil && *is == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf("pod updates may not change fields other than %s\n%v",
			changeable, diff.Diff(old.Spec, *rest))))
	}
	return errs
}

// validateDeadlineUpdate lets a deadline be set, or moved closer. stop says that looking further is pointless.
func validateDeadlineUpdate(seconds, old *int64) (errs field.ErrorList, stop bool) {
	path := specPath.Child("activeDeadlineSeconds")
	switch {
	case seconds == nil && old != nil:
		return field.ErrorList{field.Invalid(path, seconds, "must not update from a positive integer to nil value")}, false
	case seconds == nil:
		return nil, false
	case *seconds < 0 || *seconds > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *seconds, validation.InclusiveRangeError(0, math.MaxInt32))}, true
	case old != nil && *old < *seconds:
		return field.ErrorList{field.Invalid(path, *seconds, "must be less than or equal to previous value")}, true
	}
	return nil, false
}

// validateTolerationsUpdate lets tolerations be added, and how long an old one holds be changed.
func validateTolerationsUpdate(tolerations, old []corev1.Toleration) field.ErrorList {
	path := specPath.Child("tolerations")
	for _, was := range old {
		if !slices.ContainsFunc(tolerations, func(is corev1.Toleration) bool {
			was.TolerationSeconds = is.TolerationSeconds
			return apiequality.Semantic.DeepEqual(was, is)
		}) {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return v.Tolerations(tolerations, path)
}

// validateGatesUpdate lets gates be removed.
func validateGatesUpdate(gates, old []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range gates {
		if !slices.Contains(old, gate) {
			errs = append(errs, field.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// validateGatedUpdate checks the changes that only a Pod held back by gates may undergo: it may be confined to fewer
// nodes. It puts them back in s as they were in old.
func validateGatedUpdate(s, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for key, value := range old.NodeSelector {
		if is, ok := s.NodeSelector[key]; !ok || is != value {
			errs = append(errs, field.Invalid(specPath.Child("nodeSelector"), s.NodeSelector,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	s.NodeSelector = old.NodeSelector

	is, was := nodeAffinity(s), nodeAffinity(old)
	if apiequality.Semantic.DeepEqual(is, was) {
		return errs
	}
	errs = append(errs, validateNodeAffinityUpdate(is, was)...)
	switch {
	case s.Affinity == nil:
		s.Affinity = &corev1.Affinity{NodeAffinity: was}
	case old.Affinity == nil && s.Affinity.PodAffinity == nil && s.Affinity.PodAntiAffinity == nil:
		s.Affinity = nil
	default:
		s.Affinity.NodeAffinity = was
	}
	return errs
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

func requiredNodeTerms(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// validateNodeAffinityUpdate lets requirements be added to each term. Terms are alternatives: a further one would admit
// more nodes.
func validateNodeAffinityUpdate(a, old *corev1.NodeAffinity) field.ErrorList {
	is, was := requiredNodeTerms(a), requiredNodeTerms(old)
	path := specPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(was) == 0 {
		return nil
	}
	if len(is) != len(was) {
		return field.ErrorList{field.Invalid(path, is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range was {
		if !extends(&is[i], &was[i]) {
			errs = append(errs, field.Invalid(path.Index(i), is[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// extends says whether t is old with requirements added. An empty term matches no node, and nothing may be added to it.
func extends(t, old *corev1.NodeSelectorTerm) bool {
	if len(old.MatchExpressions)+len(old.MatchFields) == 0 {
		return len(t.MatchExpressions)+len(t.MatchFields) == 0
	}
	begins := func(l, old []corev1.NodeSelectorRequirement) bool {
		return len(l) >= len(old) && apiequality.Semantic.DeepEqual(l[:len(old)], old)
	}
	return (len(old.MatchExpressions) == 0 || begins(t.MatchExpressions, old.MatchExpressions)) &&
		(len(old.MatchFields) == 0 || begins(t.MatchFields, old.MatchFields))
}

// validateAnnotationsUpdate forbids any change of the annotations that decide how the Pod was started.
func validateAnnotationsUpdate(p, old *corev1.Pod) field.ErrorList {
	appArmor := func(key string) bool {
		return strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
	}
	var errs field.ErrorList
	for _, key := range sortedKeys(old.Annotations) {
		if value, ok := p.Annotations[key]; ok && value == old.Annotations[key] {
			continue
		}
		if appArmor(key) {
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), "may not remove or update AppArmor annotations"))
		}
		if key == corev1.MirrorPodAnnotationKey {
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), "may not remove or update mirror pod annotation"))
		}
	}
	for _, key := range sortedKeys(p.Annotations) {
		if _, ok := old.Annotations[key]; ok {
			continue
		}
		if appArmor(key) {
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), "may not add AppArmor annotations"))
		}
		if key == corev1.MirrorPodAnnotationKey {
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), "may not add mirror pod annotation"))
		}
	}
	return errs
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
