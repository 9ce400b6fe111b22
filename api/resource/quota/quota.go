// Package quota says what objects cost a ResourceQuota of their namespace: Pods, Services and claims (of both kinds) by what they ask for,
// every other kind one each. Admission charges by it and the quota controller counts by it, so that both agree.
package quota

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// ListFunc lists the objects of a resource in a namespace. What it returns is only read.
type ListFunc func(gr schema.GroupResource, namespace string) ([]runtime.Object, error)

// Short names that quotas have for counts of these, beside count/<resource>.
var shortNames = map[schema.GroupResource]corev1.ResourceName{
	corev1.Resource("configmaps"):             corev1.ResourceConfigMaps,
	corev1.Resource("replicationcontrollers"): corev1.ResourceReplicationControllers,
	corev1.Resource("resourcequotas"):         corev1.ResourceQuotas,
	corev1.Resource("secrets"):                corev1.ResourceSecrets,
}

// Measured returns the evaluators of the resources that cost more than one each, and of those with short names. List may be
// nil where nothing is counted, only charged.
func Measured(list ListFunc, devices Devices) []quota.Evaluator {
	out := []quota.Evaluator{podEvaluator(list), serviceEvaluator(list), claimEvaluator(list), deviceClaimEvaluator(list, devices)}
	for gr := range shortNames {
		out = append(out, Counted(gr, list))
	}
	return out
}

// Counted returns the evaluator of a resource that costs one an object.
func Counted(gr schema.GroupResource, list ListFunc) quota.Evaluator {
	return generic.NewObjectCountEvaluator(gr, listOf(gr, list), shortNames[gr])
}

// Ignored returns the resources that no quota bounds: events come and go by themselves.
func Ignored() map[schema.GroupResource]struct{} {
	return map[schema.GroupResource]struct{}{corev1.Resource("events"): {}, eventsv1.Resource("events"): {}}
}

// Affected says whether a change of an object from old to now changes what it costs the quota, by the quota's spec.
func Affected(q *corev1.ResourceQuota, e quota.Evaluator, old, now runtime.Object) (bool, error) {
	q = &corev1.ResourceQuota{Spec: q.Spec, Status: corev1.ResourceQuotaStatus{Hard: q.Spec.Hard}}
	before, err := e.Matches(q, old)
	if err != nil {
		return false, err
	}
	after, err := e.Matches(q, now)
	if err != nil || before != after || !after {
		return before != after, err
	}
	was, err := e.Usage(old)
	if err != nil {
		return false, err
	}
	is, err := e.Usage(now)
	return err == nil && !quota.Equals(was, is), err
}

func listOf(gr schema.GroupResource, list ListFunc) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) { return list(gr, namespace) }
}

// evaluator is a quota.Evaluator made from functions. Those of scope and constraints may be nil.
type evaluator struct {
	resource schema.GroupResource
	list     generic.ListFuncByNamespace
	// handles says which requests can change what an object costs.
	handles func(admission.Attributes) bool
	// bounds says whether a quota's resource is one that these objects use.
	bounds func(corev1.ResourceName) bool
	usage  generic.UsageFunc
	// inScope says whether an object is in a scope.
	inScope generic.MatchesScopeFunc
	// constraints refuses an object that does not say how much it wants of the resources.
	constraints func(required []corev1.ResourceName, obj runtime.Object) error
}

var _ quota.Evaluator = &evaluator{}

func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

func (e *evaluator) Usage(obj runtime.Object) (corev1.ResourceList, error) { return e.usage(obj) }

func (e *evaluator) Constraints(required []corev1.ResourceName, obj runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	return e.constraints(required, obj)
}

func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, n := range names {
		if e.bounds(n) {
			out = append(out, n)
		}
	}
	return out
}

func (e *evaluator) scope() generic.MatchesScopeFunc {
	if e.inScope == nil {
		return generic.MatchesNoScopeFunc
	}
	return e.inScope
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, obj runtime.Object) (bool, error) {
	return generic.Matches(q, obj, e.MatchingResources, e.scope())
}

func (e *evaluator) MatchingScopes(obj runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range scopes {
		in, err := e.scope()(s, obj)
		if err != nil {
			return nil, fmt.Errorf("match scope %s: %w", s.ScopeName, err)
		}
		if in {
			out = append(out, s)
		}
	}
	return out, nil
}

func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	covered := map[corev1.ResourceQuotaScope]bool{}
	for _, m := range matched {
		covered[m.ScopeName] = true
	}
	var out []corev1.ScopedResourceSelectorRequirement
	for _, l := range limited {
		if !covered[l.ScopeName] {
			out = append(out, l)
		}
	}
	return out, nil
}

func (e *evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.scope(), e.usage)
}

// selects says whether the requirement's operator and values take the name, which is empty where there is none.
func selects(r corev1.ScopedResourceSelectorRequirement, name string) (bool, error) {
	operators := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	op, ok := operators[r.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", r.Operator)
	}
	requirement, err := labels.NewRequirement(string(r.ScopeName), op, r.Values)
	if err != nil {
		return false, fmt.Errorf("read scope selector: %w", err)
	}
	set := labels.Set{}
	if name != "" {
		set[string(r.ScopeName)] = name
	}
	return requirement.Matches(set), nil
}

func count(n int) apiresource.Quantity {
	return *apiresource.NewQuantity(int64(n), apiresource.DecimalSI)
}

// typed reads an object as what its evaluator is for.
func typed[T runtime.Object](obj runtime.Object) (T, error) {
	t, ok := obj.(T)
	if !ok {
		return t, fmt.Errorf("measure for quota: got %T, want %T", obj, t)
	}
	return t, nil
}
