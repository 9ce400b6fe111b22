// Package podmetrics declares metrics.k8s.io/v1beta1 PodMetrics: what the containers of a running Pod use. It is measured and not
// stored.
package podmetrics

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/peapod/peapod/api/metrics/measured"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[metricsv1beta1.PodMetrics](resource.Declaration{
		GVK:        metricsv1beta1.SchemeGroupVersion.WithKind("PodMetrics"),
		Plural:     "pods",
		Namespaced: true,
		Virtual:    storage,
		Yields:     true,
	}, func() runtime.Object { return &metricsv1beta1.PodMetricsList{} }, kind{})
}

type kind struct{}

var _ resource.Printer[*metricsv1beta1.PodMetrics] = kind{}

func storage(env resource.Env) rest.Storage {
	return measured.Kind[*corev1.Pod, *metricsv1beta1.PodMetrics]{
		Stored: "pods", Name: "podmetrics", Namespaced: true,
		New: func() *metricsv1beta1.PodMetrics { return &metricsv1beta1.PodMetrics{} },
		List: func(all []*metricsv1beta1.PodMetrics) runtime.Object {
			list := &metricsv1beta1.PodMetricsList{Items: make([]metricsv1beta1.PodMetrics, len(all))}
			for i, m := range all {
				list.Items[i] = *m
			}
			return list
		},
		Measure: measure,
	}.Storage(env)
}

// measure knows Pods that run. One that still starts, or has ended, has no metrics.
func measure(from resource.Reading, of *corev1.Pod, into *metricsv1beta1.PodMetrics) bool {
	return of.Status.Phase == corev1.PodRunning && of.Spec.NodeName != "" &&
		from.Pod(of.Spec.NodeName, types.NamespacedName{Namespace: of.Namespace, Name: of.Name}, into)
}

// Columns implements resource.Printer.
func (kind) Columns() []metav1.TableColumnDefinition { return measured.Columns() }

// Row implements resource.Printer.
func (kind) Row(m *metricsv1beta1.PodMetrics) ([]any, error) {
	sum := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, q := range c.Usage {
			total := sum[name]
			total.Add(q)
			sum[name] = total
		}
	}
	return measured.Row(m.Name, sum, m.Window), nil
}
