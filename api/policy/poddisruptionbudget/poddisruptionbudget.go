// Package poddisruptionbudget declares policy/v1 PodDisruptionBudget.
package poddisruptionbudget

import (
	"context"
	"strconv"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	apivalidation "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[policyv1.PodDisruptionBudget](resource.Declaration{
		GVK:             policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Plural:          "poddisruptionbudgets",
		ShortNames:      []string{"pdb"},
		Namespaced:      true,
		Status:          true,
		Generation:      true,
		VersionedUpdate: true, // the controller and evictions write the same object
	}, func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*policyv1.PodDisruptionBudget]       = kind{}
	_ resource.UpdateValidator[*policyv1.PodDisruptionBudget] = kind{}
	_ resource.StatusValidator[*policyv1.PodDisruptionBudget] = kind{}
	_ resource.Printer[*policyv1.PodDisruptionBudget]         = kind{}
)

// Validate checks a new budget.
func (kind) Validate(_ context.Context, obj *policyv1.PodDisruptionBudget) field.ErrorList {
	return validateSpec(&obj.Spec, false)
}

// ValidateUpdate tolerates a selector that was accepted under older rules.
func (kind) ValidateUpdate(_ context.Context, obj, old *policyv1.PodDisruptionBudget) field.ErrorList {
	lax := len(apivalidation.LabelSelector(old.Spec.Selector, false, nil)) > 0
	return validateSpec(&obj.Spec, lax)
}

func validateSpec(spec *policyv1.PodDisruptionBudgetSpec, lax bool) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, validateShare(spec.MinAvailable, path.Child("minAvailable"))...)
	errs = append(errs, validateShare(spec.MaxUnavailable, path.Child("maxUnavailable"))...)
	errs = append(errs, apivalidation.LabelSelector(spec.Selector, lax, path.Child("selector"))...)
	return append(errs, apivalidation.OptionalEnum(spec.UnhealthyPodEvictionPolicy,
		path.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
}

// validateShare takes a number of Pods, or up to 100 percent of them.
func validateShare(share *intstr.IntOrString, path *field.Path) field.ErrorList {
	if share == nil {
		return nil
	}
	if share.Type == intstr.Int {
		return apivalidation.NonNegativeInteger(int64(share.IntVal), path)
	}
	errs := apivalidation.Messages(validation.IsValidPercent(share.StrVal), *share, path)
	percent, err := strconv.Atoi(strings.TrimSuffix(share.StrVal, "%"))
	if len(errs) == 0 && (err != nil || percent > 100) {
		errs = append(errs, field.Invalid(path, *share, "must not be greater than 100%"))
	}
	return errs
}

// ValidateStatusUpdate checks the counts and conditions.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	status, path := &obj.Status, field.NewPath("status")
	errs := metavalidation.ValidateConditions(status.Conditions, path.Child("conditions"))
	for _, count := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", status.DisruptionsAllowed}, {"currentHealthy", status.CurrentHealthy},
		{"desiredHealthy", status.DesiredHealthy}, {"expectedPods", status.ExpectedPods},
	} {
		errs = append(errs, apivalidation.NonNegativeInteger(int64(count.value), path.Child(count.name))...)
	}
	return errs
}

// Columns are those of `kubectl get poddisruptionbudgets`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := policyv1.PodDisruptionBudgetSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Min Available", doc["minAvailable"]),
		table.Text("Max Unavailable", doc["maxUnavailable"]),
		table.Integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *policyv1.PodDisruptionBudget) ([]any, error) {
	return []any{
		obj.Name, share(obj.Spec.MinAvailable), share(obj.Spec.MaxUnavailable),
		int64(obj.Status.DisruptionsAllowed), table.Since(obj.CreationTimestamp),
	}, nil
}

func share(s *intstr.IntOrString) string {
	if s == nil {
		return "N/A"
	}
	return s.String()
}
