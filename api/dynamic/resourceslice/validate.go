package resourceslice

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/dynamic/device"
	v "github.com/peapod/peapod/api/validation"
)

// Validate checks a new slice.
func (kind) Validate(_ context.Context, obj *resourcev1.ResourceSlice) field.ErrorList {
	return validate(&obj.Spec, &resourcev1.ResourceSliceSpec{}, field.NewPath("spec"))
}

// ValidateUpdate checks a changed slice: it stays with its driver, pool and node.
func (kind) ValidateUpdate(_ context.Context, obj, old *resourcev1.ResourceSlice) field.ErrorList {
	is, was, path := &obj.Spec, &old.Spec, field.NewPath("spec")
	errs := apivalidation.ValidateImmutableField(is.Pool.Name, was.Pool.Name, path.Child("pool", "name"))
	errs = append(errs, apivalidation.ValidateImmutableField(is.Driver, was.Driver, path.Child("driver"))...)
	errs = append(errs, apivalidation.ValidateImmutableField(is.NodeName, was.NodeName, path.Child("nodeName"))...)
	return append(errs, validate(is, was, path)...)
}

// validate checks a specification. Capacities and taints of devices that are as they were are not looked at.
func validate(is, was *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	errs := device.Driver(is.Driver, path.Child("driver"))
	errs = append(errs, pool(&is.Pool, path.Child("pool"))...)
	errs = append(errs, placed(is, path)...)
	if is.SharedCounters != nil && is.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(is.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	before := map[string]*resourcev1.Device{}
	for i := range was.Devices {
		before[was.Devices[i].Name] = &was.Devices[i]
	}
	perDevice := is.PerDeviceNodeSelection != nil && *is.PerDeviceNodeSelection
	errs = append(errs, device.Set(is.Devices, most, path.Child("devices"),
		func(d *resourcev1.Device) string { return d.Name },
		func(d *resourcev1.Device, at *field.Path) field.ErrorList {
			return validateDevice(d, before[d.Name], perDevice, at)
		})...)
	return append(errs, device.Set(is.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, path.Child("sharedCounters"),
		func(c *resourcev1.CounterSet) string { return c.Name },
		func(c *resourcev1.CounterSet, at *field.Path) field.ErrorList {
			errs := v.RequiredDNSLabel(c.Name, at.Child("name"))
			return append(errs, counters(c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))...)
		})...)
}

func pool(p *resourcev1.ResourcePool, path *field.Path) field.ErrorList {
	errs := device.Pool(p.Name, path.Child("name"))
	if p.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("resourceSliceCount"), p.ResourceSliceCount, v.NotPositive))
	}
	if p.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("generation"), p.Generation, "must be greater than or equal to zero"))
	}
	return errs
}

// placed checks that one way says where the devices are.
func placed(s *resourcev1.ResourceSliceSpec, path *field.Path) field.ErrorList {
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	var w where
	w.node(s.NodeName, path, "must be either unset or set to a non-empty string")
	w.selector(s.NodeSelector, path)
	if s.NodeSelector != nil && len(s.NodeSelector.NodeSelectorTerms) != 1 {
		// What several devices of a claim need is then merged with ease.
		w.errs = append(w.errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	w.flag("allNodes", s.AllNodes, path)
	w.flag("perDeviceNodeSelection", s.PerDeviceNodeSelection, path)
	return w.exactlyOne(path, one, one+", but multiple fields are set")
}

// where gathers the ways in which it is said where something is, and what is wrong with them.
type where struct {
	set  []string
	errs field.ErrorList
}

func (w *where) node(name *string, path *field.Path, empty string) {
	switch at := path.Child("nodeName"); {
	case name == nil:
	case *name == "":
		w.errs = append(w.errs, field.Invalid(at, *name, empty))
	default:
		w.set = append(w.set, "`nodeName`")
		w.errs = append(w.errs, v.ObjectName(*name, at)...)
	}
}

func (w *where) selector(s *corev1.NodeSelector, path *field.Path) {
	if s != nil {
		w.set = append(w.set, "`nodeSelector`")
		w.errs = append(w.errs, v.NodeSelector(s, false, path.Child("nodeSelector"))...)
	}
}

func (w *where) flag(name string, f *bool, path *field.Path) {
	switch {
	case f == nil:
	case *f:
		w.set = append(w.set, "`"+name+"`")
	default:
		w.errs = append(w.errs, field.Invalid(path.Child(name), *f, "must be either unset or set to true"))
	}
}

func (w *where) exactlyOne(path *field.Path, none, several string) field.ErrorList {
	switch len(w.set) {
	case 0:
		return append(w.errs, field.Required(path, none))
	case 1:
		return w.errs
	}
	return append(w.errs, field.Invalid(path, fmt.Sprintf("{%s}", strings.Join(w.set, ", ")), several))
}
