package resourceslice

import (
	"fmt"
	"math"
	"regexp"
	"sync"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/dynamic/device"
	v "github.com/peapod/peapod/api/validation"
)

// validateDevice checks one device; was is what it was before, nil if it is new. perDevice says that each device of the slice says
// itself where it is.
func validateDevice(d, was *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	errs := v.DNSLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	if n := len(d.Attributes); n > resourcev1.ResourceSliceMaxAttributeValuesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attribute values must not exceed %d", resourcev1.ResourceSliceMaxAttributeValuesPerDevice)))
	}
	errs = append(errs, device.Map(d.Attributes, math.MaxInt, device.LongestName, path.Child("attributes"), device.QualifiedName, attribute)...)
	if was == nil || !equality.Semantic.DeepEqual(was.Capacity, d.Capacity) {
		shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
		errs = append(errs, device.Map(d.Capacity, math.MaxInt, device.LongestName, path.Child("capacity"), device.QualifiedName,
			func(c *resourcev1.DeviceCapacity, at *field.Path) field.ErrorList { return capacity(c, shared, at) })...)
	}
	if was == nil || !equality.Semantic.DeepEqual(was.Taints, d.Taints) {
		errs = append(errs, device.List(d.Taints, resourcev1.DeviceTaintsMaxLength, path.Child("taints"), device.Taint)...)
	}
	errs = append(errs, device.Set(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, path.Child("consumesCounters"),
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
			errs := v.RequiredDNSLabel(c.CounterSet, at.Child("counterSet"))
			return append(errs, counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))...)
		})...)
	errs = append(errs, devicePlaced(d, perDevice, path)...)
	return append(errs, device.BindingConditions(d.BindingConditions, d.BindingFailureConditions, path)...)
}

// devicePlaced checks where the device itself says that it is.
func devicePlaced(d *resourcev1.Device, perDevice bool, path *field.Path) field.ErrorList {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	var w where
	w.node(d.NodeName, path, "must not be empty")
	w.selector(d.NodeSelector, path)
	w.flag("allNodes", d.AllNodes, path)
	return w.exactlyOne(path, one, one)
}

// counters checks a set of counters. Any amount that parses will do.
func counters(m map[string]resourcev1.Counter, most int, path *field.Path) field.ErrorList {
	if len(m) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return device.Map(m, most, validation.DNS1123LabelMaxLength, path,
		func(name *string, at *field.Path) field.ErrorList { return v.DNSLabel(*name, at) },
		func(*resourcev1.Counter, *field.Path) field.ErrorList { return nil })
}

func capacity(c *resourcev1.DeviceCapacity, shared bool, path *field.Path) field.ErrorList {
	at := path.Child("requestPolicy")
	switch {
	case c.RequestPolicy == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	}
	return device.RequestPolicy(c.Value, c.RequestPolicy, at)
}

// attribute checks that there is one value, and that one.
func attribute(a *resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := 0
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if set {
			values++
		}
	}
	if a.StringValue != nil {
		errs = append(errs, short(*a.StringValue, path.Child("string"))...)
	}
	if a.VersionValue != nil {
		at := path.Child("version")
		if !semver().MatchString(*a.VersionValue) {
			errs = append(errs, field.Invalid(at, *a.VersionValue, "must be a string compatible with semver.org spec 2.0.0"))
		}
		errs = append(errs, short(*a.VersionValue, at)...)
	}
	switch {
	case values == 0:
		errs = append(errs, field.Invalid(path, "", "exactly one value must be specified"))
	case values > 1:
		errs = append(errs, field.Invalid(path, *a, "exactly one value must be specified"))
	}
	return errs
}

func short(value string, path *field.Path) field.ErrorList {
	if len(value) > resourcev1.DeviceAttributeMaxValueLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.DeviceAttributeMaxValueLength)}
	}
	return nil
}

// semver is the grammar of semver.org 2.0.0: three numbers, then what comes before the release, then what tells of the build.
var semver = sync.OnceValue(func() *regexp.Regexp {
	const (
		number  = `(?:0|[1-9]\d*)`
		before  = `(?:` + number + `|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
		builtBy = `[0-9a-zA-Z-]+`
	)
	return regexp.MustCompile(`^` + number + `\.` + number + `\.` + number +
		`(?:-` + before + `(?:\.` + before + `)*)?` +
		`(?:\+` + builtBy + `(?:\.` + builtBy + `)*)?$`)
})
