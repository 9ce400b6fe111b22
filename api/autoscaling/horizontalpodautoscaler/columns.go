package horizontalpodautoscaler

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/table"
)

// Columns are those of `kubectl get horizontalpodautoscalers`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Reference", spec["scaleTargetRef"]),
		table.Text("Targets", spec["metrics"]),
		table.Text("MinPods", spec["minReplicas"]),
		table.Text("MaxPods", spec["maxReplicas"]),
		table.Text("Replicas", status["currentReplicas"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *autoscalingv2.HorizontalPodAutoscaler) ([]any, error) {
	least := "<unset>"
	if obj.Spec.MinReplicas != nil {
		least = strconv.Itoa(int(*obj.Spec.MinReplicas))
	}
	ref := obj.Spec.ScaleTargetRef
	return []any{
		obj.Name, ref.Kind + "/" + ref.Name, targets(obj.Spec.Metrics, obj.Status.CurrentMetrics), least,
		int64(obj.Spec.MaxReplicas), int64(obj.Status.CurrentReplicas), table.Since(obj.CreationTimestamp),
	}, nil
}

// shownTargets is how many metrics are printed; of the others their number is.
const shownTargets = 2

func targets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return table.None
	}
	var shown []string
	for i := range specs[:min(len(specs), shownTargets)] {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		shown = append(shown, target(&specs[i], &status))
	}
	text := strings.Join(shown, ", ")
	if more := len(specs) - shownTargets; more > 0 {
		text += fmt.Sprintf(" + %d more...", more)
	}
	return text
}

// target is one metric, what it is and what it should be. A status of another type than the metric's tells nothing of it.
func target(m *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var is autoscalingv2.MetricValueStatus
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		if status.External != nil {
			is = status.External.Current
		}
		return amount(&m.External.Target, &is)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		if status.Object != nil {
			is = status.Object.Current
		}
		return amount(&m.Object.Target, &is)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		if status.Pods != nil {
			is = status.Pods.Current
		}
		return quantity(is.AverageValue) + "/" + quantity(m.Pods.Target.AverageValue)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		if status.Resource != nil {
			is = status.Resource.Current
		}
		return string(m.Resource.Name) + ": " + usage(&m.Resource.Target, &is)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		if status.ContainerResource != nil {
			is = status.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + usage(&m.ContainerResource.Target, &is)
	}
	return "<unknown type>"
}

func amount(target *autoscalingv2.MetricTarget, is *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(is.AverageValue) + "/" + quantity(target.AverageValue) + " (avg)"
	}
	return quantity(is.Value) + "/" + quantity(target.Value)
}

func usage(target *autoscalingv2.MetricTarget, is *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(is.AverageValue) + "/" + quantity(target.AverageValue)
	}
	current, wanted := table.Unknown, "<auto>"
	if is.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *is.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		wanted = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return current + "/" + wanted
}

func quantity(q *apiresource.Quantity) string {
	if q == nil {
		return table.Unknown
	}
	return q.String()
}
