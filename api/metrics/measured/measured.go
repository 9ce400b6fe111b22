// Package measured makes the storage of the kinds of metrics.k8s.io: an object for each stored one that was measured, with its name,
// namespace and labels. They are made when they are read. What is selected is selected by the stored object.
package measured

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Kind is one kind of metrics. S is what is measured, M what says how much it uses.
type Kind[S, M resource.Object] struct {
	// Stored is the resource of what is measured; Name is what errors call the metrics of it.
	Stored, Name string
	Namespaced   bool
	New          func() M
	// List makes a list of metrics.
	List func([]M) runtime.Object
	// Measure fills in times and usage; false: they are not known.
	Measure func(from resource.Reading, of S, into M) bool
}

// Storage returns the REST storage.
func (k Kind[S, M]) Storage(env resource.Env) rest.Storage { return storage[S, M]{k, env} }

type storage[S, M resource.Object] struct {
	kind Kind[S, M]
	env  resource.Env
}

var _ resource.Reader = storage[*corev1.Node, *metricsv1beta1.NodeMetrics]{}

func (s storage[S, M]) New() runtime.Object     { return s.kind.New() }
func (s storage[S, M]) NewList() runtime.Object { return s.kind.List(nil) }
func (s storage[S, M]) Destroy()                {}
func (s storage[S, M]) NamespaceScoped() bool   { return s.kind.Namespaced }

// GetSingularName says that there is none: clients take the kind's name then, and have "podmetrics" beside "pod".
func (s storage[S, M]) GetSingularName() string { return "" }

// Get implements rest.Getter.
func (s storage[S, M]) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.env.Store(schema.GroupResource{Resource: s.kind.Stored}).Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	found, err := s.measure(ctx, []runtime.Object{obj})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		if s.kind.Namespaced {
			name = request.NamespaceValue(ctx) + "/" + name
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: s.kind.Name}, name)
	}
	return found[0], nil
}

// List implements rest.Lister. The list is whole, however few are asked for at once: it is of one moment.
func (s storage[S, M]) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	selected := &metainternalversion.ListOptions{}
	if o != nil {
		selected.LabelSelector, selected.FieldSelector = o.LabelSelector, o.FieldSelector
	}
	list, err := s.env.Store(schema.GroupResource{Resource: s.kind.Stored}).List(ctx, selected)
	if err != nil {
		return nil, err
	}
	stored, err := meta.ExtractList(list)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.kind.Stored, err)
	}
	found, err := s.measure(ctx, stored)
	if err != nil {
		return nil, err
	}
	return s.kind.List(found), nil
}

// measure returns the metrics of what was measured. Where there is nothing to measure nobody is asked.
func (s storage[S, M]) measure(ctx context.Context, stored []runtime.Object) ([]M, error) {
	if len(stored) == 0 {
		return nil, nil
	}
	if s.env.Usage == nil {
		return nil, apierrors.NewServiceUnavailable("metrics are not available: this server reaches no kubelets")
	}
	reading, err := s.env.Usage.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", s.kind.Stored, err)
	}
	now := metav1.NewTime(time.Now())
	var found []M
	for _, obj := range stored {
		of, ok := obj.(S)
		if !ok {
			return nil, fmt.Errorf("measure %s: one is a %T", s.kind.Stored, obj)
		}
		m := s.kind.New()
		if !s.kind.Measure(reading, of, m) {
			continue
		}
		m.SetName(of.GetName())
		m.SetNamespace(of.GetNamespace())
		m.SetLabels(of.GetLabels())
		m.SetCreationTimestamp(now)
		found = append(found, m)
	}
	return found, nil
}

// Columns are those of both kinds, as metrics-server prints them.
func Columns() []metav1.TableColumnDefinition {
	quantity := func(name corev1.ResourceName, description string) metav1.TableColumnDefinition {
		return metav1.TableColumnDefinition{Name: string(name), Type: "string", Format: "quantity", Description: description}
	}
	return []metav1.TableColumnDefinition{
		table.Name(),
		quantity(corev1.ResourceCPU, "CPU in use, in cores, on average over the window"),
		quantity(corev1.ResourceMemory, "Working set, in bytes, at the end of the window"),
		{Name: "Window", Type: "string", Format: "duration", Description: "How long the time was that CPU was measured over"},
	}
}

// Row are the cells of Columns.
func Row(name string, used corev1.ResourceList, window metav1.Duration) []any {
	return []any{name, used.Cpu().String(), used.Memory().String(), window.Duration.String()}
}
