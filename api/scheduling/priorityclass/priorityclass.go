// Package priorityclass declares scheduling.k8s.io/v1 PriorityClass.
package priorityclass

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	apivalidation "github.com/peapod/peapod/api/validation"
)

const (
	// HighestUserDefinable is the highest value that a class may have but for the system's own.
	HighestUserDefinable = int32(1000000000)
	// systemPrefix starts the names of the system's own classes.
	systemPrefix = "system-"
)

// System returns the classes that exist in every cluster.
func System() []*schedulingv1.PriorityClass {
	return []*schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       2*HighestUserDefinable + 1000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       2 * HighestUserDefinable,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[schedulingv1.PriorityClass](resource.Declaration{
		GVK:        schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Plural:     "priorityclasses",
		ShortNames: []string{"pc"},
		Generation: true,
	}, func() runtime.Object { return &schedulingv1.PriorityClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*schedulingv1.PriorityClass]       = kind{}
	_ resource.Validator[*schedulingv1.PriorityClass]       = kind{}
	_ resource.UpdateValidator[*schedulingv1.PriorityClass] = kind{}
	_ resource.Printer[*schedulingv1.PriorityClass]         = kind{}
)

// Default lets Pods of the class preempt those of lower ones.
func (kind) Default(obj *schedulingv1.PriorityClass) {
	if obj.PreemptionPolicy == nil {
		obj.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
	}
}

// Validate checks a new class.
func (kind) Validate(_ context.Context, obj *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(obj.Name, systemPrefix) {
		if err := knownSystemClass(obj); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+
				systemPrefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if obj.Value > HighestUserDefinable {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserDefinable)))
	}
	if obj.PreemptionPolicy != nil {
		errs = append(errs, apivalidation.Enum(*obj.PreemptionPolicy, field.NewPath("preemptionPolicy"),
			corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// knownSystemClass says in what obj differs from the system's class of its name.
func knownSystemClass(obj *schedulingv1.PriorityClass) error {
	for _, class := range System() {
		if class.Name != obj.Name {
			continue
		}
		if class.Value != obj.Value {
			return fmt.Errorf("value of %v PriorityClass must be %v", class.Name, class.Value)
		}
		if class.GlobalDefault != obj.GlobalDefault {
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", class.Name, class.GlobalDefault)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", obj.Name)
}

// ValidateUpdate keeps what Pods of the class have copied.
func (kind) ValidateUpdate(_ context.Context, obj, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if obj.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, validation.ValidateImmutableField(obj.PreemptionPolicy, old.PreemptionPolicy,
		field.NewPath("preemptionPolicy"))...)
}

// Columns are those of `kubectl get priorityclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Value", doc["value"]),
		{Name: "Global-Default", Type: "boolean", Description: doc["globalDefault"]},
		table.Age(),
		table.Text("PreemptionPolicy", doc["preemptionPolicy"]),
	}
}

// Row is one line of the table.
func (kind) Row(obj *schedulingv1.PriorityClass) ([]any, error) {
	preemption := ""
	if obj.PreemptionPolicy != nil {
		preemption = string(*obj.PreemptionPolicy)
	}
	return []any{
		obj.Name, int64(obj.Value), obj.GlobalDefault, table.Since(obj.CreationTimestamp), preemption,
	}, nil
}
