package resourceclaim

import (
	"context"
	"math"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/dynamic/device"
	v "github.com/peapod/peapod/api/validation"
)

// id names a device, or one share of it.
type id = schedulerapi.SharedDeviceID

func resultID(r *resourcev1.DeviceRequestAllocationResult) id {
	return schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(r.Driver, r.Pool, r.Device), r.ShareID)
}

func statusID(s *resourcev1.AllocatedDeviceStatus) id {
	return schedulerapi.MakeSharedDeviceID(schedulerapi.MakeDeviceID(s.Driver, s.Pool, s.Device), (*types.UID)(s.ShareID))
}

// allocated returns the devices that a claim has.
func allocated(s *resourcev1.ResourceClaimStatus) sets.Set[id] {
	ids := sets.New[id]()
	if s.Allocation != nil {
		for i := range s.Allocation.Devices.Results {
			ids.Insert(resultID(&s.Allocation.Devices.Results[i]))
		}
	}
	return ids
}

// PrepareForStatusUpdate drops what is not enabled, and forgets what drivers told of devices that are no longer
// allocated: who takes an allocation back need not know of that.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *resourcev1.ResourceClaim) {
	if a := obj.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			a.Devices.Results[i].SkipNodeOperations = nil // DRAOptionalNodeOperations
		}
	}
	gone := allocated(&old.Status).Difference(allocated(&obj.Status))
	obj.Status.Devices = slices.DeleteFunc(obj.Status.Devices, func(s resourcev1.AllocatedDeviceStatus) bool { return gone.Has(statusID(&s)) })
	if len(obj.Status.Devices) == 0 {
		obj.Status.Devices = nil
	}
}

// ValidateStatusUpdate checks who uses the claim, what was allocated, and what drivers tell of that.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *resourcev1.ResourceClaim) field.ErrorList {
	is, was, path := &obj.Status, &old.Status, field.NewPath("status")
	users := path.Child("reservedFor")
	errs := device.Set(is.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, users,
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }, consumer)
	ids := allocated(is)
	errs = append(errs, device.Set(is.Devices, math.MaxInt, path.Child("devices"), statusID,
		func(s *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
			return deviceStatus(s, ids, at)
		})...)
	switch {
	case len(is.ReservedFor) == 0:
	case is.Allocation == nil:
		errs = append(errs, field.Forbidden(users, "may not be specified when `allocated` is not set"))
	case obj.DeletionTimestamp != nil && sets.New(is.ReservedFor...).Difference(sets.New(was.ReservedFor...)).Len() > 0:
		errs = append(errs, field.Forbidden(users, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	switch at := path.Child("allocation"); {
	case is.Allocation == nil:
	case was.Allocation != nil:
		errs = append(errs, apivalidation.ValidateImmutableField(is.Allocation, was.Allocation, at)...)
	default:
		errs = append(errs, allocation(is.Allocation, device.Requests(&obj.Spec.Devices), at)...)
	}
	return errs
}

func consumer(r *resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	errs := v.Required(r.Resource, path.Child("resource"))
	errs = append(errs, v.Required(r.Name, path.Child("name"))...)
	return append(errs, v.Required(string(r.UID), path.Child("uid"))...)
}

// allocation checks a new one.
func allocation(a *resourcev1.AllocationResult, names device.RequestNames, path *field.Path) field.ErrorList {
	at := path.Child("devices")
	errs := device.List(a.Devices.Results, resourcev1.AllocationResultsMaxSize, at.Child("results"),
		func(r *resourcev1.DeviceRequestAllocationResult, at *field.Path) field.ErrorList {
			return result(r, names, at)
		})
	// Those of classes and those of the claim.
	errs = append(errs, device.List(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, at.Child("config"),
		func(c *resourcev1.DeviceAllocationConfiguration, at *field.Path) field.ErrorList {
			errs := v.Enum(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
			errs = append(errs, names.Check(c.Requests, at.Child("requests"))...)
			return append(errs, device.Configuration(&c.DeviceConfiguration, false, at)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, v.NodeSelector(a.NodeSelector, false, path.Child("nodeSelector"))...)
	}
	return errs
}

func result(r *resourcev1.DeviceRequestAllocationResult, names device.RequestNames, path *field.Path) field.ErrorList {
	errs := names.CheckOne(&r.Request, path.Child("request"))
	errs = append(errs, device.Driver(r.Driver, path.Child("driver"))...)
	errs = append(errs, device.Pool(r.Pool, path.Child("pool"))...)
	errs = append(errs, v.DNSLabel(r.Device, path.Child("device"))...)
	errs = append(errs, device.BindingConditions(r.BindingConditions, r.BindingFailureConditions, path)...)
	errs = append(errs, device.Tolerations(r.Tolerations, path.Child("tolerations"))...)
	if r.ShareID != nil {
		errs = append(errs, device.ShareID(string(*r.ShareID), path.Child("shareID"))...)
	}
	return errs
}

// deviceStatus checks what a driver tells of a device, which must be one of ids.
func deviceStatus(s *resourcev1.AllocatedDeviceStatus, ids sets.Set[id], path *field.Path) field.ErrorList {
	errs := device.Driver(s.Driver, path.Child("driver"))
	errs = append(errs, device.Pool(s.Pool, path.Child("pool"))...)
	errs = append(errs, v.DNSLabel(s.Device, path.Child("device"))...)
	if s.ShareID != nil {
		errs = append(errs, device.ShareID(ptr.Deref(s.ShareID, ""), path.Child("shareID"))...)
	}
	if is := statusID(s); !ids.Has(is) {
		errs = append(errs, field.Invalid(path, is, "must be an allocated device in the claim"))
	}
	at := path.Child("conditions")
	if most := resourcev1.AllocatedDeviceStatusMaxConditions; len(s.Conditions) > most {
		errs = append(errs, field.TooMany(at, len(s.Conditions), most))
	}
	errs = append(errs, metav1validation.ValidateConditions(s.Conditions, at)...)
	if s.Data != nil && len(s.Data.Raw) > 0 {
		errs = append(errs, device.JSONObject(s.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	return append(errs, networkData(s.NetworkData, path.Child("networkData"))...)
}

func networkData(n *resourcev1.NetworkDeviceData, path *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	var errs field.ErrorList
	if most := resourcev1.NetworkDeviceDataInterfaceNameMaxLength; len(n.InterfaceName) > most {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", most))
	}
	if most := resourcev1.NetworkDeviceDataHardwareAddressMaxLength; len(n.HardwareAddress) > most {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", most))
	}
	return append(errs, device.Set(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, path.Child("ips"), func(ip *string) string { return *ip },
		func(ip *string, at *field.Path) field.ErrorList { return validation.IsValidInterfaceAddress(at, *ip) })...)
}
