package device

import (
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// DefaultClaim fills in how many devices each request is for, and what tolerations compare.
func DefaultClaim(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		if r := c.Requests[i].Exactly; r != nil {
			defaultAmount(&r.AllocationMode, &r.Count)
			defaultTolerations(r.Tolerations)
		}
		for j := range c.Requests[i].FirstAvailable {
			r := &c.Requests[i].FirstAvailable[j]
			defaultAmount(&r.AllocationMode, &r.Count)
			defaultTolerations(r.Tolerations)
		}
	}
}

func defaultAmount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

// DefaultResults is what DefaultClaim does, for what was allocated.
func DefaultResults(list []resourcev1.DeviceRequestAllocationResult) {
	for i := range list {
		defaultTolerations(list[i].Tolerations)
	}
}

// DropClaim clears what is not enabled.
func DropClaim(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		if r := c.Requests[i].Exactly; r != nil {
			r.DerivedAttributes = nil // DRADerivedAttributes
		}
		for j := range c.Requests[i].FirstAvailable {
			c.Requests[i].FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// Claim checks a new claim. A claim never changes, so there is no other.
func Claim(c *resourcev1.DeviceClaim, path *field.Path) field.ErrorList {
	names := Requests(c)
	errs := Set(c.Requests, resourcev1.DeviceRequestsMaxSize, path.Child("requests"),
		func(r *resourcev1.DeviceRequest) string { return r.Name }, anyRequest)
	errs = append(errs, List(c.Constraints, resourcev1.DeviceConstraintsMaxSize, path.Child("constraints"),
		func(k *resourcev1.DeviceConstraint, at *field.Path) field.ErrorList { return constraint(k, names, at) })...)
	return append(errs, List(c.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"),
		func(k *resourcev1.DeviceClaimConfiguration, at *field.Path) field.ErrorList {
			return append(names.Check(k.Requests, at.Child("requests")), Configuration(&k.DeviceConfiguration, false, at)...)
		})...)
}

// anyRequest checks that exactly one kind of request is made, and that one.
func anyRequest(r *resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := v.DNSLabel(r.Name, path.Child("name"))
	switch alternatives := len(r.FirstAvailable) > 0; {
	case alternatives && r.Exactly != nil:
		return append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case alternatives:
		return append(errs, Set(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, path.Child("firstAvailable"),
			func(s *resourcev1.DeviceSubRequest) string { return s.Name },
			func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
				errs := v.DNSLabel(s.Name, at.Child("name"))
				return append(errs, wish(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, at)...)
			})...)
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, wish(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
	}
	return append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
}

// wish checks what the two kinds of request have in common.
func wish(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if at := path.Child("deviceClassName"); class == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, v.DNSSubdomain(class, at)...)
	}
	errs = append(errs, Selectors(selectors, path.Child("selectors"))...)
	switch at := path.Child("count"); mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(at, count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			errs = append(errs, field.Invalid(at, count, v.NotPositive))
		}
	default:
		errs = append(errs, v.Supported(mode, path.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	return append(errs, Tolerations(tolerations, path.Child("tolerations"))...)
}

func constraint(c *resourcev1.DeviceConstraint, names RequestNames, path *field.Path) field.ErrorList {
	errs := names.Check(c.Requests, path.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		return append(errs, FullyQualifiedName(*c.MatchAttribute, path.Child("matchAttribute"))...)
	case c.DistinctAttribute != nil:
		return append(errs, FullyQualifiedName(*c.DistinctAttribute, path.Child("distinctAttribute"))...)
	}
	return append(errs, field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
}

// RequestNames are the names of a claim's requests and of the alternatives in them.
type RequestNames map[string][]string

// Requests returns the names of a claim's requests.
func Requests(c *resourcev1.DeviceClaim) RequestNames {
	names := RequestNames{}
	for _, r := range c.Requests {
		names[r.Name] = nil
		for _, s := range r.FirstAvailable {
			names[r.Name] = append(names[r.Name], s.Name)
		}
	}
	return names
}

// Check checks a list of references to requests.
func (n RequestNames) Check(refs []string, path *field.Path) field.ErrorList {
	return Set(refs, resourcev1.DeviceRequestsMaxSize, path, itself[string], n.CheckOne)
}

// CheckOne checks a reference to a request, or to an alternative of one: REQUEST or REQUEST/ALTERNATIVE.
func (n RequestNames) CheckOne(ref *string, path *field.Path) field.ErrorList {
	const what = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(*ref, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, *ref, what)}
	}
	var errs field.ErrorList
	for _, part := range parts {
		errs = append(errs, v.DNSLabel(part, path)...)
	}
	alternatives, ok := n[parts[0]]
	if !ok || len(parts) == 2 && !slices.Contains(alternatives, parts[1]) {
		errs = append(errs, field.Invalid(path, *ref, what))
	}
	return errs
}
