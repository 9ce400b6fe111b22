package apiservice

import (
	"context"
	"fmt"
	"slices"
	"strings"

	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/api/validation"
)

// The greatest priorities that there may be.
const (
	mostGroupPriority   = 20000
	mostVersionPriority = 1000
)

// ValidateName takes what can stand in a path. That it says group and version, Validate checks.
func (kind) ValidateName(name string, _ bool) []string {
	return pathvalidation.IsValidPathSegmentName(name)
}

// Validate checks a new object, and a changed one: nothing of it is immutable but what the name says.
func (kind) Validate(_ context.Context, obj *apiregistrationv1.APIService) field.ErrorList {
	s, path := &obj.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if want := s.Version + "." + s.Group; obj.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.Name,
			fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	switch {
	case s.Group != "":
		errs = append(errs, validation.Messages(utilvalidation.IsDNS1123Subdomain(s.Group), s.Group, path.Child("group"))...)
	case s.Version != "v1":
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	errs = append(errs, validation.Messages(utilvalidation.IsDNS1035Label(s.Version), s.Version, path.Child("version"))...)
	if s.GroupPriorityMinimum <= 0 || s.GroupPriorityMinimum > mostGroupPriority {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), s.GroupPriorityMinimum, "must be positive and less than 20000"))
	}
	if s.VersionPriority <= 0 || s.VersionPriority > mostVersionPriority {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), s.VersionPriority, "must be positive and less than 1000"))
	}
	return append(errs, transport(s, path)...)
}

// transport checks how the server is reached, which one that is not elsewhere says nothing of.
func transport(s *apiregistrationv1.APIServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Service == nil {
		if n := len(s.CABundle); n != 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
		}
		if s.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	at := path.Child("service")
	errs = append(errs, validation.Required(s.Service.Namespace, at.Child("namespace"))...)
	errs = append(errs, validation.Required(s.Service.Name, at.Child("name"))...)
	var port int32
	if s.Service.Port != nil {
		port = *s.Service.Port
	}
	if wrong := utilvalidation.IsValidPortNum(int(port)); len(wrong) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), port, "port is not valid: "+strings.Join(wrong, ", ")))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

// ValidateStatusUpdate checks what is told of the server.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *apiregistrationv1.APIService) field.ErrorList {
	known := []apiregistrationv1.ConditionStatus{
		apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown}
	var errs field.ErrorList
	for i, c := range obj.Status.Conditions {
		if !slices.Contains(known, c.Status) {
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status, known))
		}
	}
	return errs
}
