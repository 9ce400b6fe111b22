package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/peapod/peapod/api/validation"
)

const countPods corev1.ResourceName = "count/pods"

var (
	podResources = []corev1.ResourceName{
		countPods, corev1.ResourcePods,
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	}
	// mustBeSaid are those that each container has to give a value for, where a quota bounds them.
	mustBeSaid = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory)
)

func podEvaluator(list ListFunc) quota.Evaluator {
	pods := corev1.Resource("pods")
	return &evaluator{
		resource: pods, list: listOf(pods, list), bounds: boundsPods, constraints: podConstraints, inScope: podInScope,
		handles: func(a admission.Attributes) bool {
			switch a.GetSubresource() {
			case "":
				return a.GetOperation() == admission.Create || a.GetOperation() == admission.Update && changesScope(a)
			case "resize":
				return a.GetOperation() == admission.Update
			}
			return false
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			pod, err := typed[*corev1.Pod](obj)
			if err != nil {
				return nil, err
			}
			return podUsage(pod, time.Now()), nil
		},
	}
}

func boundsPods(name corev1.ResourceName) bool {
	return slices.Contains(podResources, name) ||
		quota.ContainsPrefix([]string{corev1.ResourceHugePagesPrefix, corev1.ResourceRequestsHugePagesPrefix}, name) ||
		ExtendedRequest(name)
}

// ChargedUntil says until when a Pod is charged for what it asks for. One that has ended is not; one that should be gone,
// but is not because nobody answers for its node, is no longer: zero and false. A Pod that may run has no end: zero and true.
func ChargedUntil(pod *corev1.Pod, now time.Time) (time.Time, bool) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return time.Time{}, false
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}, true
	}
	end := pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
	if now.After(end) {
		return time.Time{}, false
	}
	return end, true
}

// podUsage is what a Pod costs at a time. As an object it counts until it is deleted.
func podUsage(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	usage := corev1.ResourceList{countPods: count(1)}
	if _, charged := ChargedUntil(pod, now); !charged {
		return usage
	}
	options := resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	return quota.Add(usage, computeUsage(resource.PodRequests(pod, options), resource.PodLimits(pod, options)))
}

// computeUsage names requests and limits as quotas do.
func computeUsage(requests, limits corev1.ResourceList) corev1.ResourceList {
	usage := corev1.ResourceList{corev1.ResourcePods: count(1)}
	for name, q := range requests {
		asked := corev1.DefaultResourceRequestsPrefix + name
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			usage[name], usage[asked] = q, q
		case validation.IsExtended(name), strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix):
			usage[asked] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := limits[name]; ok {
			usage["limits."+name] = q
		}
	}
	return usage
}

// podConstraints refuses a Pod with a container that leaves open how much CPU or memory it wants, where a quota bounds it. A
// Pod that says so as a whole need not say it for each container.
func podConstraints(required []corev1.ResourceName, obj runtime.Object) error {
	pod, err := typed[*corev1.Pod](obj)
	if err != nil {
		return err
	}
	if resource.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[corev1.ResourceName]sets.Set[string]{}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		usage := computeUsage(c.Resources.Requests, c.Resources.Limits)
		for _, name := range required {
			if _, said := usage[name]; said || !mustBeSaid.Has(name) {
				continue
			}
			if missing[name] == nil {
				missing[name] = sets.New[string]()
			}
			missing[name].Insert(c.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var text []string
	for _, name := range sets.List(sets.KeySet(missing)) {
		text = append(text, fmt.Sprintf("%s for: %s", name, strings.Join(sets.List(missing[name]), ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(text, "; "))
}

// changesScope says whether a change of a Pod's spec takes it from one scope to another: a deadline may be set later.
func changesScope(a admission.Attributes) bool {
	pod, err := typed[*corev1.Pod](a.GetObject())
	old, oldErr := typed[*corev1.Pod](a.GetOldObject())
	return err == nil && oldErr == nil && terminating(pod) != terminating(old)
}

func terminating(p *corev1.Pod) bool {
	return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
}

func podInScope(r corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, err := typed[*corev1.Pod](obj)
	if err != nil {
		return false, err
	}
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return qos.GetPodQOS(pod) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return qos.GetPodQOS(pod) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(r, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity), nil
	}
	return false, nil
}

// crossesNamespaces says whether the affinity is to Pods of namespaces other than its own.
func crossesNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, w := range preferred {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
