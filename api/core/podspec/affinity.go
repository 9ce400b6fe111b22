package podspec

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

const (
	requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *checker) checkAffinity(path *field.Path) field.ErrorList {
	a := c.spec.Affinity
	if a == nil {
		return nil
	}
	var errs field.ErrorList
	if n := a.NodeAffinity; n != nil {
		at := path.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			errs = append(errs, v.NodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, c.tolerated.nodeSelectors, at.Child(requiredTerms))...)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferredTerms).Index(i)
			errs = append(errs, checkWeight(t.Weight, at)...)
			// What is merely preferred may be impossible.
			errs = append(errs, v.NodeSelectorTerm(&t.Preference, true, at.Child("preference"))...)
		}
	}
	if p := a.PodAffinity; p != nil {
		errs = append(errs, c.checkPodTerms(p.RequiredDuringSchedulingIgnoredDuringExecution,
			p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))...)
	}
	if p := a.PodAntiAffinity; p != nil {
		errs = append(errs, c.checkPodTerms(p.RequiredDuringSchedulingIgnoredDuringExecution,
			p.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))...)
	}
	return errs
}

func checkWeight(weight int32, path *field.Path) field.ErrorList {
	if weight <= 0 || weight > 100 {
		return field.ErrorList{field.Invalid(path.Child("weight"), weight, "must be in the range 1-100")}
	}
	return nil
}

func (c *checker) checkPodTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range required {
		errs = append(errs, c.checkPodTerm(&required[i], path.Child(requiredTerms).Index(i))...)
	}
	for i := range preferred {
		at := path.Child(preferredTerms).Index(i)
		errs = append(errs, checkWeight(preferred[i].Weight, at)...)
		errs = append(errs, c.checkPodTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))...)
	}
	return errs
}

func (c *checker) checkPodTerm(t *corev1.PodAffinityTerm, path *field.Path) field.ErrorList {
	errs := v.LabelSelector(t.LabelSelector, c.tolerated.podSelectors, path.Child("labelSelector"))
	errs = append(errs, v.LabelSelector(t.NamespaceSelector, c.tolerated.podSelectors, path.Child("namespaceSelector"))...)
	for _, name := range t.Namespaces {
		errs = append(errs, v.Messages(apivalidation.ValidateNamespaceName(name, false), name, path.Child("namespace"))...)
	}
	errs = append(errs, checkLabelKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, path)...)
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, v.LabelKey(t.TopologyKey, path.Child("topologyKey"))...)
}

// checkLabelKeys checks the keys of labels that a Pod must share, or must not, with the Pods that selector selects. path is
// that of the struct they are all in. A key in match is in the selector once, put there when the Pod was made: twice means
// that the user had it there too. In mismatch that makes sense.
func checkLabelKeys(match, mismatch []string, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	at := path.Child("matchLabelKeys")
	errs := checkKeyNames(match, selector, at)
	errs = append(errs, checkKeyNames(mismatch, selector, path.Child("mismatchLabelKeys"))...)
	if selector != nil {
		index := map[string]int{}
		for i, key := range match {
			index[key] = i
		}
		seen := sets.KeySet(selector.MatchLabels)
		for _, e := range selector.MatchExpressions {
			if i, ok := index[e.Key]; ok && seen.Has(e.Key) {
				errs = append(errs, field.Invalid(path.Index(i), e.Key, inSelectorToo))
			}
			seen.Insert(e.Key)
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			errs = append(errs, field.Invalid(at.Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

const (
	noSelector    = "must not be specified when labelSelector is not set"
	inSelectorToo = "exists in both matchLabelKeys and labelSelector"
)

func checkKeyNames(keys []string, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if len(keys) > 0 && selector == nil {
		return field.ErrorList{field.Forbidden(path, noSelector)}
	}
	var errs field.ErrorList
	for i, key := range keys {
		errs = append(errs, v.LabelKey(key, path.Index(i))...)
	}
	return errs
}

func (c *checker) checkTopologySpread(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	constraints := c.spec.TopologySpreadConstraints
	for i := range constraints {
		t, at := &constraints[i], path.Index(i)
		if t.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), t.MaxSkew, v.NotPositive))
		}
		if t.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		errs = append(errs, v.Supported(t.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		for _, other := range constraints[i+1:] {
			if other.TopologyKey == t.TopologyKey && other.WhenUnsatisfiable == t.WhenUnsatisfiable {
				errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"),
					fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
				break
			}
		}
		errs = append(errs, checkMinDomains(t, at.Child("minDomains"))...)
		errs = append(errs, v.OptionalEnum(t.NodeAffinityPolicy, at.Child("nodeAffinityPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		errs = append(errs, v.OptionalEnum(t.NodeTaintsPolicy, at.Child("nodeTaintsPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		if c.tolerated.spreadKeys {
			errs = append(errs, checkUnmergedKeys(t, at.Child("matchLabelKeys"))...)
		} else {
			errs = append(errs, checkLabelKeys(t.MatchLabelKeys, nil, t.LabelSelector, at)...)
		}
		if !c.tolerated.spreadSelectors {
			errs = append(errs, v.LabelSelector(t.LabelSelector, false, at.Child("labelSelector"))...)
		}
	}
	return errs
}

func checkMinDomains(t *corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	if t.MinDomains == nil {
		return nil
	}
	var errs field.ErrorList
	if *t.MinDomains <= 0 {
		errs = append(errs, field.Invalid(path, t.MinDomains, v.NotPositive))
	}
	if t.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(path, t.MinDomains,
			fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
	}
	return errs
}

// checkUnmergedKeys is the rule for constraints from before keys were merged into the selector: a key is in one or the
// other.
func checkUnmergedKeys(t *corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	if len(t.MatchLabelKeys) == 0 {
		return nil
	}
	var errs field.ErrorList
	inSelector := sets.New[string]()
	if t.LabelSelector == nil {
		errs = append(errs, field.Forbidden(path, noSelector))
	} else {
		inSelector = sets.KeySet(t.LabelSelector.MatchLabels)
		for _, e := range t.LabelSelector.MatchExpressions {
			inSelector.Insert(e.Key)
		}
	}
	for i, key := range t.MatchLabelKeys {
		errs = append(errs, v.LabelKey(key, path.Index(i))...)
		if inSelector.Has(key) {
			errs = append(errs, field.Invalid(path.Index(i), key, inSelectorToo))
		}
	}
	return errs
}
