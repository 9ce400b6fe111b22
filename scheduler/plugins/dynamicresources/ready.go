package dynamicresources

import (
	"errors"
	"fmt"
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrBindingFailed says that a driver has given up on a device; ErrBindingTimeout, that it takes too long.
var (
	ErrBindingFailed  = errors.New("device binding failed")
	ErrBindingTimeout = errors.New("device binding timeout")
)

// Ready says whether the devices of a claim are ready for a Pod that uses them to be bound: those that have to be made ready after they
// were allocated name conditions for it (bindingConditions). An error says that one never will be.
func Ready(claim *resourcev1.ResourceClaim) (bool, error) {
	if claim.Status.Allocation == nil {
		return false, nil
	}
	for i := range claim.Status.Allocation.Devices.Results {
		r := &claim.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		at := slices.IndexFunc(claim.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
			return d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device
		})
		if at < 0 {
			return false, nil
		}
		conditions := claim.Status.Devices[at].Conditions
		for _, name := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(conditions, name); c != nil && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("%w: claim=%s, reason=%s, message=%q", ErrBindingFailed, claim.Name, c.Reason, c.Message)
			}
		}
		for _, name := range r.BindingConditions {
			if !meta.IsStatusConditionTrue(conditions, name) {
				return false, nil
			}
		}
	}
	return true, nil
}

// Conditional says whether a device of the claim has conditions for being ready.
func Conditional(claim *resourcev1.ResourceClaim) bool {
	return claim.Status.Allocation != nil && slices.ContainsFunc(claim.Status.Allocation.Devices.Results,
		func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// Deadline is when the devices of the claim should be ready at the latest; ok is false where there is nothing to wait for.
func Deadline(claim *resourcev1.ResourceClaim, timeout time.Duration) (at time.Time, ok bool) {
	if !Conditional(claim) || claim.Status.Allocation.AllocationTimestamp == nil {
		return time.Time{}, false
	}
	return claim.Status.Allocation.AllocationTimestamp.Add(timeout), true
}

// TimedOut says whether the devices of the claim should have been ready before.
func TimedOut(claim *resourcev1.ResourceClaim, now time.Time, timeout time.Duration) bool {
	at, ok := Deadline(claim, timeout)
	return ok && at.Before(now)
}
