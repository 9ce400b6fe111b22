// Package devicetaint says which devices a DeviceTaintRule means, for who looks for devices and for who evicts Pods from them.
package devicetaint

import (
	resourcev1 "k8s.io/api/resource/v1"
)

// Selects says whether the rule means a device. One without a selector means none, and an empty selector means all.
func Selects(rule *resourcev1.DeviceTaintRule, driver, pool, device string) bool {
	s := rule.Spec.DeviceSelector
	return s != nil && is(s.Driver, driver) && is(s.Pool, pool) && is(s.Device, device)
}

// SelectsSome says whether the rule may mean devices of a slice.
func SelectsSome(rule *resourcev1.DeviceTaintRule, slice *resourcev1.ResourceSlice) bool {
	s := rule.Spec.DeviceSelector
	return s != nil && is(s.Driver, slice.Spec.Driver) && is(s.Pool, slice.Spec.Pool.Name)
}

// is says whether a name is the one that is wanted; nil for any.
func is(wanted *string, name string) bool { return wanted == nil || *wanted == name }

// Apply returns the slice with the taints of rules beside its own, or the slice itself where no rule means a device of it. The slice stays
// as it is.
func Apply(slice *resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) *resourcev1.ResourceSlice {
	out := slice
	for _, rule := range rules {
		if !SelectsSome(rule, slice) {
			continue
		}
		for i := range slice.Spec.Devices {
			if !Selects(rule, slice.Spec.Driver, slice.Spec.Pool.Name, slice.Spec.Devices[i].Name) {
				continue
			}
			if out == slice {
				out = slice.DeepCopy()
			}
			d := &out.Spec.Devices[i]
			d.Taints = append(d.Taints, rule.Spec.Taint)
		}
	}
	return out
}
