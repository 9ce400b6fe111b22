package hook

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// ParamKind checks which kind the parameters of a policy have; nil passes.
func ParamKind(k *admissionv1.ParamKind, p *field.Path) field.ErrorList {
	if k == nil {
		return nil
	}
	errs := apiVersion(k.APIVersion, p.Child("apiVersion"))
	if k.Kind == "" {
		return append(errs, field.Required(p.Child("kind"), ""))
	}
	if msgs := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(p.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func apiVersion(value string, p *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	gv, err := schema.ParseGroupVersion(value)
	if err != nil {
		return field.ErrorList{field.Invalid(p, value, err.Error())}
	}
	var errs field.ErrorList
	if gv.Group != "" {
		if msgs := validation.IsDNS1123Subdomain(gv.Group); len(msgs) > 0 {
			errs = append(errs, field.Invalid(p, gv.Group, strings.Join(msgs, ",")))
		}
	}
	if gv.Version == "" {
		return append(errs, field.Invalid(p, value, "version must be specified"))
	}
	if msgs := validation.IsDNS1035Label(gv.Version); len(msgs) > 0 {
		errs = append(errs, field.Invalid(p, gv.Version, strings.Join(msgs, ",")))
	}
	return errs
}

// ParamRef checks which objects a binding takes parameters from; nil passes.
func ParamRef(r *admissionv1.ParamRef, p *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	const both = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if r.Name != "" {
		errs = append(errs, v.Messages(path.ValidatePathSegmentName(r.Name, false), r.Name, p.Child("name"))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(p.Child("name"), both))
		}
	}
	errs = append(errs, v.LabelSelector(r.Selector, false, p.Child("selector"))...)
	switch {
	case r.Selector != nil && r.Name != "":
		errs = append(errs, field.Forbidden(p.Child("selector"), both))
	case r.Selector == nil && r.Name == "":
		errs = append(errs, field.Required(p, "one of name or selector must be specified"))
	}
	var action admissionv1.ParameterNotFoundActionType
	if r.ParameterNotFoundAction != nil {
		action = *r.ParameterNotFoundAction
	}
	return append(errs, v.Enum(action, p.Child("parameterNotFoundAction"), admissionv1.AllowAction, admissionv1.DenyAction)...)
}

// ParamKindCell is how a table shows the kind of parameters.
func ParamKindCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return Unset
	}
	return k.APIVersion + "/" + k.Kind
}

// ParamRefCell is how a table shows where parameters come from. Whether those have a namespace cannot be told from the reference.
func ParamRefCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return Unset
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return Unset
}
