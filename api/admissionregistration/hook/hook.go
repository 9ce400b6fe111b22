// Package hook holds what the kinds of admissionregistration.k8s.io have in common: the rules by which a webhook or a policy is
// asked about a request, expressions, parameters, and their checks.
package hook

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/manifest"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	v "github.com/peapod/peapod/api/validation"
)

// Spec and Webhooks are where the parts of the kinds are.
var (
	Spec     = field.NewPath("spec")
	Webhooks = field.NewPath("webhooks")
)

// Unset is what tables show where a policy has no parameters.
const Unset = "<unset>"

// Name checks the name of a new object of any of the kinds: names with a certain end belong to configurations that a server
// reads from files.
func Name(obj resource.Object) field.ErrorList {
	name := obj.GetName()
	if !strings.HasSuffix(name, manifest.StaticConfigSuffix) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), name, fmt.Sprintf(
		"names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", manifest.StaticConfigSuffix))}
}

// Policy checks the name of the policy that a binding puts to work.
func Policy(name string) field.ErrorList {
	path := Spec.Child("policyName")
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return v.Messages(apivalidation.NameIsDNSSubdomain(name, false), name, path)
}

// DefaultFailurePolicy is Fail: who cannot be asked has not agreed.
func DefaultFailurePolicy(p **admissionv1.FailurePolicyType) {
	if *p == nil {
		*p = ptr.To(admissionv1.Fail)
	}
}

// FailurePolicy checks a required failure policy.
func FailurePolicy(p *admissionv1.FailurePolicyType, path *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return v.Supported(*p, path, admissionv1.Fail, admissionv1.Ignore)
}

// ReinvocationPolicy checks whether a hook may be asked once more about what others have changed after it.
func ReinvocationPolicy(p admissionv1.ReinvocationPolicyType, path *field.Path) field.ErrorList {
	return v.Enum(p, path, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
}
