// Package csidriver declares storage.k8s.io/v1 CSIDriver.
package csidriver

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.CSIDriver](resource.Declaration{
		GVK:             storagev1.SchemeGroupVersion.WithKind("CSIDriver"),
		Plural:          "csidrivers",
		Generation:      true,
		ReturnDeleted:   true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &storagev1.CSIDriverList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*storagev1.CSIDriver]       = kind{}
	_ resource.Validator[*storagev1.CSIDriver]       = kind{}
	_ resource.UpdateValidator[*storagev1.CSIDriver] = kind{}
	_ resource.Printer[*storagev1.CSIDriver]         = kind{}
)

// Default fills in everything that has a default: a driver that says nothing is attached, and has persistent volumes.
func (kind) Default(obj *storagev1.CSIDriver) {
	s := &obj.Spec
	for _, b := range []struct {
		field **bool
		value bool
	}{
		{&s.AttachRequired, true}, {&s.PodInfoOnMount, false}, {&s.StorageCapacity, false}, {&s.RequiresRepublish, false},
		{&s.SELinuxMount, false},
	} {
		if *b.field == nil {
			*b.field = ptr.To(b.value)
		}
	}
	if s.FSGroupPolicy == nil {
		s.FSGroupPolicy = ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

// Validate checks a new driver.
func (kind) Validate(_ context.Context, obj *storagev1.CSIDriver) field.ErrorList {
	s, path := &obj.Spec, field.NewPath("spec")
	var errs field.ErrorList
	for _, required := range []struct {
		name  string
		value *bool
	}{
		{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount}, {"storageCapacity", s.StorageCapacity},
		{"seLinuxMount", s.SELinuxMount},
	} {
		if required.value == nil {
			errs = append(errs, field.Required(path.Child(required.name), ""))
		}
	}
	errs = append(errs, v.OptionalEnum(s.FSGroupPolicy, path.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy,
		storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	errs = append(errs, validateTokens(s.TokenRequests, path.Child("tokenRequests"))...)
	modes := path.Child("volumeLifecycleModes")
	for _, mode := range s.VolumeLifecycleModes {
		errs = append(errs, v.Supported(mode, modes, storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent)...)
	}
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets,
			"must be unset when tokenRequests is empty"))
	}
	return errs
}

// validateTokens checks that no audience is asked for twice, and that tokens are valid for ten minutes to 2^32 seconds.
func validateTokens(list []storagev1.TokenRequest, path *field.Path) field.ErrorList {
	const least = 10 * 60
	var errs field.ErrorList
	for i, r := range list {
		at := path.Index(i)
		if slices.ContainsFunc(list[:i], func(o storagev1.TokenRequest) bool { return o.Audience == r.Audience }) {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		if r.ExpirationSeconds == nil {
			continue
		}
		if *r.ExpirationSeconds < least {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *r.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
		}
		if *r.ExpirationSeconds > math.MaxUint32 {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *r.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

// ValidateUpdate checks a changed driver. Whether volumes are attached, and how long they live, stays.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *storagev1.CSIDriver) field.ErrorList {
	errs := k.Validate(ctx, obj)
	path := field.NewPath("spec")
	errs = append(errs, apivalidation.ValidateImmutableField(obj.Spec.AttachRequired, old.Spec.AttachRequired, path.Child("attachedRequired"))...)
	return append(errs, apivalidation.ValidateImmutableField(obj.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, path.Child("volumeLifecycleModes"))...)
}

// Columns are those of `kubectl get csidrivers`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("AttachRequired", doc["attachRequired"]),
		table.Text("PodInfoOnMount", doc["podInfoOnMount"]),
		table.Text("StorageCapacity", doc["storageCapacity"]),
		table.Text("TokenRequests", doc["tokenRequests"]),
		table.Text("RequiresRepublish", doc["requiresRepublish"]),
		table.Text("Modes", doc["volumeLifecycleModes"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *storagev1.CSIDriver) ([]any, error) {
	s := &obj.Spec
	var audiences, modes []string
	for _, r := range s.TokenRequests {
		audiences = append(audiences, r.Audience)
	}
	tokens := "<unset>"
	if s.TokenRequests != nil {
		tokens = strings.Join(audiences, ",")
	}
	for _, m := range s.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	return []any{
		obj.Name, strconv.FormatBool(ptr.Deref(s.AttachRequired, true)), strconv.FormatBool(ptr.Deref(s.PodInfoOnMount, false)),
		strconv.FormatBool(ptr.Deref(s.StorageCapacity, false)), tokens, strconv.FormatBool(ptr.Deref(s.RequiresRepublish, false)),
		table.OrNone(strings.Join(modes, ",")), table.Since(obj.CreationTimestamp),
	}, nil
}
