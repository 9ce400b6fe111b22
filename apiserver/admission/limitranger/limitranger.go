// Package limitranger holds Pods and claims to the LimitRanges of their namespace: requests and limits that are left out get
// the namespace's defaults, and those out of range are refused.
package limitranger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/resource"
)

// annotation says what was filled in.
const annotation = "kubernetes.io/limit-ranger"

// Plugin is the plugin.
type Plugin struct {
	*admission.Handler
	ranges corelisters.LimitRangeLister
}

var (
	_ admission.MutationInterface   = &Plugin{}
	_ admission.ValidationInterface = &Plugin{}
)

// New makes the plugin.
func New(ranges corelisters.LimitRangeLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), ranges}
}

// concerns says whether the request is about resources at all: the creation of a Pod, a resize of one, or a claim.
func concerns(a admission.Attributes) bool {
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		return a.GetSubresource() == "" && a.GetOperation() == admission.Create || a.GetSubresource() == "resize"
	case corev1.Resource("persistentvolumeclaims"):
		return a.GetSubresource() == ""
	}
	return false
}

func (p *Plugin) list(namespace string) ([]*corev1.LimitRange, error) {
	list, err := p.ranges.LimitRanges(namespace).List(labels.Everything())
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("list limit ranges: %w", err))
	}
	slices.SortFunc(list, func(a, b *corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Admit fills in a Pod's defaults.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !concerns(a) || a.GetOperation() != admission.Create {
		return nil
	}
	list, err := p.list(a.GetNamespace())
	if err != nil {
		return err
	}
	var said []string
	for _, r := range list {
		requests, limits := defaults(r)
		for i := range pod.Spec.Containers {
			said = append(said, fill(&pod.Spec.Containers[i], "container", requests, limits)...)
		}
		for i := range pod.Spec.InitContainers {
			said = append(said, fill(&pod.Spec.InitContainers[i], "init container", requests, limits)...)
		}
	}
	if len(said) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[annotation] = "LimitRanger plugin set: " + strings.Join(said, "; ")
	}
	return nil
}

// defaults are the range's default requests and limits of containers.
func defaults(r *corev1.LimitRange) (requests, limits corev1.ResourceList) {
	requests, limits = corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	return requests, limits
}

// fill sets what the container leaves out and says what it set.
func fill(c *corev1.Container, what string, requests, limits corev1.ResourceList) (said []string) {
	set := func(list *corev1.ResourceList, from corev1.ResourceList, kind string) {
		var names []string
		for name, q := range from {
			if _, ok := (*list)[name]; ok {
				continue
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = q.DeepCopy()
			names = append(names, string(name))
		}
		if len(names) > 0 {
			slices.Sort(names)
			said = append(said, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), kind, what, c.Name))
		}
	}
	set(&c.Resources.Requests, requests, "request")
	set(&c.Resources.Limits, limits, "limit")
	return said
}

// Validate refuses what is out of range.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !concerns(a) {
		return nil
	}
	list, err := p.list(a.GetNamespace())
	if err != nil {
		return err
	}
	for _, r := range list {
		var errs []error
		switch obj := a.GetObject().(type) {
		case *corev1.Pod:
			errs = checkPod(r, obj)
		case *corev1.PersistentVolumeClaim:
			errs = checkClaim(r, obj)
		}
		if len(errs) > 0 {
			return admission.NewForbidden(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

func checkPod(r *corev1.LimitRange, pod *corev1.Pod) (errs []error) {
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range list {
					errs = append(errs, check(item, list[j].Resources.Requests, list[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			options := resource.PodResourcesOptions{}
			errs = append(errs, check(item, resource.PodRequests(pod, options), resource.PodLimits(pod, options))...)
		}
	}
	return errs
}

func checkClaim(r *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) (errs []error) {
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		requests := claim.Spec.Resources.Requests
		for _, name := range sorted(item.Min) {
			errs = appendError(errs, minimum(item, name, requests, nil))
		}
		for _, name := range sorted(item.Max) {
			errs = appendError(errs, maximumRequest(item, name, requests))
		}
	}
	return errs
}

// check holds requests and limits to one item of a range.
func check(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, name := range sorted(item.Min) {
		errs = appendError(errs, minimum(item, name, requests, limits))
	}
	for _, name := range sorted(item.Max) {
		errs = appendError(errs, maximum(item, name, requests, limits))
	}
	for _, name := range sorted(item.MaxLimitRequestRatio) {
		errs = appendError(errs, ratio(item, name, requests, limits))
	}
	return errs
}

func sorted(l corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(l)) }

func appendError(errs []error, err error) []error {
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}
