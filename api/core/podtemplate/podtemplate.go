// Package podtemplate declares core/v1 PodTemplate.
package podtemplate

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.PodTemplate](resource.Declaration{
		GVK:           corev1.SchemeGroupVersion.WithKind("PodTemplate"),
		Plural:        "podtemplates",
		Namespaced:    true,
		Generation:    true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &corev1.PodTemplateList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.PodTemplate]       = kind{}
	_ resource.CreatePreparer[*corev1.PodTemplate]  = kind{}
	_ resource.UpdatePreparer[*corev1.PodTemplate]  = kind{}
	_ resource.Validator[*corev1.PodTemplate]       = kind{}
	_ resource.UpdateValidator[*corev1.PodTemplate] = kind{}
	_ resource.Printer[*corev1.PodTemplate]         = kind{}
)

// Default fills in the template.
func (kind) Default(obj *corev1.PodTemplate) { podspec.DefaultTemplate(&obj.Template) }

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.PodTemplate) {
	podspec.DropDisabledTemplateFields(&obj.Template, nil)
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.PodTemplate) {
	podspec.DropDisabledTemplateFields(&obj.Template, &old.Template)
}

// Validate checks a new template.
func (kind) Validate(_ context.Context, obj *corev1.PodTemplate) field.ErrorList {
	return podspec.ValidateTemplate(&obj.Template, nil, field.NewPath("template"))
}

// ValidateUpdate checks a changed template; anything in it may change.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.PodTemplate) field.ErrorList {
	return podspec.ValidateTemplate(&obj.Template, &old.Template, field.NewPath("template"))
}

// Columns are those of `kubectl get podtemplates`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Containers", "Names of each container in the template."),
		table.Text("Images", "Images referenced by each container in the template."),
		table.Text("Pod Labels", "The labels for the pod template."),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.PodTemplate) ([]any, error) {
	var names, images []string
	for _, c := range obj.Template.Spec.Containers {
		names, images = append(names, c.Name), append(images, c.Image)
	}
	return []any{
		obj.Name, strings.Join(names, ","), strings.Join(images, ","), table.Pairs(obj.Template.Labels),
	}, nil
}
