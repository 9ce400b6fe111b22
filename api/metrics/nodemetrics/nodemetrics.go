// Package nodemetrics declares metrics.k8s.io/v1beta1 NodeMetrics: what a node uses. It is measured and not stored.
package nodemetrics

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/peapod/peapod/api/metrics/measured"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[metricsv1beta1.NodeMetrics](resource.Declaration{
		GVK:     metricsv1beta1.SchemeGroupVersion.WithKind("NodeMetrics"),
		Plural:  "nodes",
		Virtual: storage,
		Yields:  true,
	}, func() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }, kind{})
}

type kind struct{}

var _ resource.Printer[*metricsv1beta1.NodeMetrics] = kind{}

func storage(env resource.Env) rest.Storage {
	return measured.Kind[*corev1.Node, *metricsv1beta1.NodeMetrics]{
		Stored: "nodes", Name: "nodemetrics",
		New: func() *metricsv1beta1.NodeMetrics { return &metricsv1beta1.NodeMetrics{} },
		List: func(all []*metricsv1beta1.NodeMetrics) runtime.Object {
			list := &metricsv1beta1.NodeMetricsList{Items: make([]metricsv1beta1.NodeMetrics, len(all))}
			for i, m := range all {
				list.Items[i] = *m
			}
			return list
		},
		Measure: func(from resource.Reading, of *corev1.Node, into *metricsv1beta1.NodeMetrics) bool {
			return from.Node(of.Name, into)
		},
	}.Storage(env)
}

// Columns implements resource.Printer.
func (kind) Columns() []metav1.TableColumnDefinition { return measured.Columns() }

// Row implements resource.Printer.
func (kind) Row(m *metricsv1beta1.NodeMetrics) ([]any, error) {
	return measured.Row(m.Name, m.Usage, m.Window), nil
}
