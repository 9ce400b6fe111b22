package horizontalpodautoscaler

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func identifier(name string, selector *metav1.LabelSelector) autoscalingv2.MetricIdentifier {
	return autoscalingv2.MetricIdentifier{Name: name, Selector: selector}
}

// usageTarget is a target of what Pods use; its type follows from what it has.
func usageTarget(utilization *int32, average *apiresource.Quantity) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: average, AverageUtilization: utilization}
	if utilization != nil {
		t.Type = autoscalingv2.UtilizationMetricType
	}
	return t
}

// unlessAverage is value, but none where it is zero only because version 1 cannot leave it out beside an average.
func unlessAverage(value *apiresource.Quantity, average *apiresource.Quantity) *apiresource.Quantity {
	if average != nil && value.IsZero() {
		return nil
	}
	return value
}

func orZero(q *apiresource.Quantity) apiresource.Quantity {
	if q == nil {
		return apiresource.Quantity{}
	}
	return *q
}

func metricToV2(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	out := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	if in := m.Object; in != nil {
		t := autoscalingv2.MetricTarget{
			Type: autoscalingv2.ValueMetricType, Value: unlessAverage(&in.TargetValue, in.AverageValue), AverageValue: in.AverageValue,
		}
		if in.AverageValue != nil {
			t.Type = autoscalingv2.AverageValueMetricType
		}
		out.Object = &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(in.Target), Target: t, Metric: identifier(in.MetricName, in.Selector),
		}
	}
	if in := m.Pods; in != nil {
		t := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &in.TargetAverageValue}
		out.Pods = &autoscalingv2.PodsMetricSource{Metric: identifier(in.MetricName, in.Selector), Target: t}
	}
	if in := m.Resource; in != nil {
		out.Resource = &autoscalingv2.ResourceMetricSource{
			Name: in.Name, Target: usageTarget(in.TargetAverageUtilization, in.TargetAverageValue),
		}
	}
	if in := m.ContainerResource; in != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{
			Name: in.Name, Container: in.Container, Target: usageTarget(in.TargetAverageUtilization, in.TargetAverageValue),
		}
	}
	if in := m.External; in != nil {
		t := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: in.TargetValue, AverageValue: in.TargetAverageValue}
		if in.TargetValue == nil {
			t.Type = autoscalingv2.AverageValueMetricType
		}
		out.External = &autoscalingv2.ExternalMetricSource{Metric: identifier(in.MetricName, in.MetricSelector), Target: t}
	}
	return out
}

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	out := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(m.Type)}
	if in := m.Object; in != nil {
		out.Object = &autoscalingv1.ObjectMetricSource{
			Target: autoscalingv1.CrossVersionObjectReference(in.DescribedObject), MetricName: in.Metric.Name, Selector: in.Metric.Selector,
			TargetValue: orZero(in.Target.Value), AverageValue: in.Target.AverageValue,
		}
	}
	if in := m.Pods; in != nil {
		out.Pods = &autoscalingv1.PodsMetricSource{
			MetricName: in.Metric.Name, Selector: in.Metric.Selector, TargetAverageValue: orZero(in.Target.AverageValue),
		}
	}
	if in := m.Resource; in != nil {
		out.Resource = &autoscalingv1.ResourceMetricSource{
			Name: in.Name, TargetAverageUtilization: in.Target.AverageUtilization, TargetAverageValue: in.Target.AverageValue,
		}
	}
	if in := m.ContainerResource; in != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{
			Name: in.Name, Container: in.Container,
			TargetAverageUtilization: in.Target.AverageUtilization, TargetAverageValue: in.Target.AverageValue,
		}
	}
	if in := m.External; in != nil {
		out.External = &autoscalingv1.ExternalMetricSource{
			MetricName: in.Metric.Name, MetricSelector: in.Metric.Selector,
			TargetValue: in.Target.Value, TargetAverageValue: in.Target.AverageValue,
		}
	}
	return out
}

func statusToV2(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	out := autoscalingv2.MetricStatus{Type: autoscalingv2.MetricSourceType(m.Type)}
	if in := m.Object; in != nil {
		out.Object = &autoscalingv2.ObjectMetricStatus{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(in.Target), Metric: identifier(in.MetricName, in.Selector),
			Current: autoscalingv2.MetricValueStatus{Value: unlessAverage(&in.CurrentValue, in.AverageValue), AverageValue: in.AverageValue},
		}
	}
	if in := m.Pods; in != nil {
		out.Pods = &autoscalingv2.PodsMetricStatus{
			Metric: identifier(in.MetricName, in.Selector), Current: autoscalingv2.MetricValueStatus{AverageValue: &in.CurrentAverageValue},
		}
	}
	if in := m.Resource; in != nil {
		out.Resource = &autoscalingv2.ResourceMetricStatus{Name: in.Name, Current: autoscalingv2.MetricValueStatus{
			AverageUtilization: in.CurrentAverageUtilization, AverageValue: &in.CurrentAverageValue,
		}}
	}
	if in := m.ContainerResource; in != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{
			Name: in.Name, Container: in.Container, Current: autoscalingv2.MetricValueStatus{
				AverageUtilization: in.CurrentAverageUtilization, AverageValue: &in.CurrentAverageValue,
			},
		}
	}
	if in := m.External; in != nil {
		out.External = &autoscalingv2.ExternalMetricStatus{
			Metric: identifier(in.MetricName, in.MetricSelector), Current: autoscalingv2.MetricValueStatus{
				Value: unlessAverage(&in.CurrentValue, in.CurrentAverageValue), AverageValue: in.CurrentAverageValue,
			},
		}
	}
	return out
}

func statusToV1(m *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	out := autoscalingv1.MetricStatus{Type: autoscalingv1.MetricSourceType(m.Type)}
	if in := m.Object; in != nil {
		out.Object = &autoscalingv1.ObjectMetricStatus{
			Target: autoscalingv1.CrossVersionObjectReference(in.DescribedObject), MetricName: in.Metric.Name, Selector: in.Metric.Selector,
			CurrentValue: orZero(in.Current.Value), AverageValue: in.Current.AverageValue,
		}
	}
	if in := m.Pods; in != nil {
		out.Pods = &autoscalingv1.PodsMetricStatus{
			MetricName: in.Metric.Name, Selector: in.Metric.Selector, CurrentAverageValue: orZero(in.Current.AverageValue),
		}
	}
	if in := m.Resource; in != nil {
		out.Resource = &autoscalingv1.ResourceMetricStatus{
			Name: in.Name, CurrentAverageUtilization: in.Current.AverageUtilization, CurrentAverageValue: orZero(in.Current.AverageValue),
		}
	}
	if in := m.ContainerResource; in != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricStatus{
			Name: in.Name, Container: in.Container,
			CurrentAverageUtilization: in.Current.AverageUtilization, CurrentAverageValue: orZero(in.Current.AverageValue),
		}
	}
	if in := m.External; in != nil {
		out.External = &autoscalingv1.ExternalMetricStatus{
			MetricName: in.Metric.Name, MetricSelector: in.Metric.Selector,
			CurrentValue: orZero(in.Current.Value), CurrentAverageValue: in.Current.AverageValue,
		}
	}
	return out
}
