package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	v "github.com/peapod/peapod/api/validation"
)

// names returns the names in l in order, so that errors come in the same order every time.
func names(l corev1.ResourceList) []corev1.ResourceName {
	list := make([]corev1.ResourceName, 0, len(l))
	for name := range l {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// checkResources checks limits, requests and claims; checkName decides which resources may be named.
func (c *checker) checkResources(r *corev1.ResourceRequirements, checkName func(corev1.ResourceName, *field.Path) field.ErrorList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	compute, hugePages := false, false
	amount := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		errs = append(errs, checkName(name, at)...)
		errs = append(errs, v.ResourceQuantity(name, q, at)...)
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		hugePages = hugePages || v.IsHugePages(name)
	}
	pages := func(name corev1.ResourceName, q resource.Quantity, at *field.Path) {
		if !v.IsHugePages(name) || c.tolerated.hugePages {
			return
		}
		if err := v.HugePagesDivisible(name, q); err != nil {
			errs = append(errs, field.Invalid(at, q.String(), err.Error()))
		}
	}
	limits, requests := path.Child("limits"), path.Child("requests")
	for _, name := range names(r.Limits) {
		at := limits.Key(string(name))
		amount(name, r.Limits[name], at)
		pages(name, r.Limits[name], at)
	}
	for _, name := range names(r.Requests) {
		q, at := r.Requests[name], requests.Key(string(name))
		amount(name, q, at)
		limit, limited := r.Limits[name]
		switch {
		case limited && !v.OvercommitAllowed(name) && q.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && !v.OvercommitAllowed(name):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
		pages(name, q, at)
	}
	if hugePages && !compute {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, c.checkClaimRefs(r.Claims, path.Child("claims"))...)
}

// checkClaimRefs checks which of the Pod's claims, or of the requests in them, a container uses. A whole claim includes
// its requests, so that naming both is naming the same thing twice.
func (c *checker) checkClaimRefs(claims []corev1.ResourceClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, claim := range claims {
		at := path.Index(i)
		if claim.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		switch {
		case seen.Has(claim.Name):
			errs = append(errs, field.Duplicate(at, claim.Name))
		case claim.Request != "":
			errs = append(errs, v.DNSLabel(claim.Request, at.Child("request"))...)
			key := claim.Name + "/" + claim.Request
			if seen.Has(key) {
				errs = append(errs, field.Duplicate(at, key))
			}
			seen.Insert(key)
		default:
			for key := range seen {
				if strings.HasPrefix(key, claim.Name+"/") {
					errs = append(errs, field.Duplicate(at, claim.Name))
				}
			}
			seen.Insert(claim.Name)
		}
		if !c.claims.Has(claim.Name) {
			missing := field.NotFound(at, claim.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims"
			if c.claims.Len() == 0 {
				missing.Detail += " which is empty"
			} else {
				missing.Detail += ": " + strings.Join(sets.List(c.claims), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}

func podResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := v.ResourceName(name, path); len(errs) > 0 {
		return errs
	}
	if !resourcehelper.IsSupportedPodLevelResource(name) {
		return field.ErrorList{field.NotSupported(path, name, sets.List(resourcehelper.SupportedPodLevelResources()))}
	}
	return nil
}

// checkPodResources checks the resources that a Pod's containers share, which must be enough for each of them.
func (c *checker) checkPodResources(path *field.Path) field.ErrorList {
	r := c.spec.Resources
	if r == nil {
		return nil
	}
	if os := c.spec.OS; os != nil && os.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims cannot be set for Resources at pod-level"))
	}
	errs = append(errs, c.checkResources(r, podResourceName, path)...)

	pod := &corev1.Pod{Spec: *c.spec}
	sum := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range names(sum) {
		have, ok := r.Requests[name]
		need := sum[name]
		if ok && need.Cmp(have) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", need.String())))
		}
	}
	// Huge pages cannot be overcommitted, so for them the limits must add up too.
	sum = resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range names(sum) {
		have, ok := r.Limits[name]
		need := sum[name]
		if ok && v.IsHugePages(name) && need.Cmp(have) > 0 {
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), have.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", need.String())))
		}
	}
	for i := range c.spec.Containers {
		limits := c.spec.Containers[i].Resources.Limits
		for _, name := range names(limits) {
			have, ok := r.Limits[name]
			need := limits[name]
			if ok && need.Cmp(have) > 0 {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), need.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", have.String())))
			}
		}
	}
	return errs
}
