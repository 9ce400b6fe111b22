// Package componentstatus declares core/v1 ComponentStatus: whether the parts of the control plane are well. It is answered and not
// stored. The API has deprecated it in favour of each part's own health endpoint; people still ask.
package componentstatus

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.ComponentStatus](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("ComponentStatus"),
		Plural:     "componentstatuses",
		ShortNames: []string{"cs"},
		Virtual:    func(env resource.Env) rest.Storage { return storage{env.Components} },
	}, func() runtime.Object { return &corev1.ComponentStatusList{} }, kind{})
}

type kind struct{}

var _ resource.Printer[*corev1.ComponentStatus] = kind{}

// Columns implements resource.Printer.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Status", "Status of the component conditions"),
		table.Text("Message", "Message of the component conditions"),
		table.Text("Error", "Error of the component conditions"),
	}
}

// Row implements resource.Printer.
func (kind) Row(c *corev1.ComponentStatus) ([]any, error) {
	for _, condition := range c.Conditions {
		if condition.Type != corev1.ComponentHealthy {
			continue
		}
		status := "Unhealthy"
		if condition.Status == corev1.ConditionTrue {
			status = "Healthy"
		}
		return []any{c.Name, status, condition.Message, condition.Error}, nil
	}
	return []any{c.Name, "Unknown", "", ""}, nil
}

// storage asks the parts when it is read.
type storage struct{ parts []resource.Component }

var _ resource.Reader = storage{}

func (storage) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (storage) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (storage) Destroy()                {}
func (storage) NamespaceScoped() bool   { return false }
func (storage) GetSingularName() string { return "componentstatus" }

// Get implements rest.Getter.
func (s storage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	i := slices.IndexFunc(s.parts, func(p resource.Component) bool { return p.Name == name })
	if i < 0 {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatus"), name)
	}
	status := ask(ctx, s.parts[i])
	return &status, nil
}

// List implements rest.Lister. They have no labels, and no field but the name to select by.
func (s storage) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, p := range s.parts {
		if o != nil && o.LabelSelector != nil && !o.LabelSelector.Matches(labels.Set{}) ||
			o != nil && o.FieldSelector != nil && !o.FieldSelector.Matches(fields.Set{"metadata.name": p.Name}) {
			continue
		}
		list.Items = append(list.Items, ask(ctx, p))
	}
	slices.SortFunc(list.Items, func(a, b corev1.ComponentStatus) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func ask(ctx context.Context, p resource.Component) corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := p.Check(ctx); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Conditions: []corev1.ComponentCondition{condition}}
}
