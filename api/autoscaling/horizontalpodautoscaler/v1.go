package horizontalpodautoscaler

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
)

// The annotations in which version 1 has what it has no fields for. They exist in that version only.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	currentAnnotation    = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
)

// fieldAnnotations are all annotations that are no version's own to keep.
var fieldAnnotations = []string{
	metricsAnnotation, currentAnnotation, conditionsAnnotation, behaviorAnnotation,
	"autoscaling.alpha.kubernetes.io/scale-down-tolerance", "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
}

// withoutFields returns the annotations but those that stand for fields: the map itself if it has none of them.
func withoutFields(annotations map[string]string) map[string]string {
	isField := func(key string, _ string) bool { return slices.Contains(fieldAnnotations, key) }
	for _, key := range fieldAnnotations {
		if _, ok := annotations[key]; ok {
			rest := maps.Clone(annotations)
			maps.DeleteFunc(rest, isField)
			return rest
		}
	}
	return annotations
}

// register adds the conversions between the two versions, one by one and in lists.
func register(scheme *runtime.Scheme) error {
	return errors.Join(
		resource.AddConversion(scheme, toV2),
		resource.AddConversion(scheme, toV1),
		resource.AddConversion(scheme, func(in *autoscalingv1.HorizontalPodAutoscalerList, out *autoscalingv2.HorizontalPodAutoscalerList) (err error) {
			out.ListMeta = in.ListMeta
			out.Items, err = resource.ConvertEach(in.Items, toV2)
			return err
		}),
		resource.AddConversion(scheme, func(in *autoscalingv2.HorizontalPodAutoscalerList, out *autoscalingv1.HorizontalPodAutoscalerList) (err error) {
			out.ListMeta = in.ListMeta
			out.Items, err = resource.ConvertEach(in.Items, toV1)
			return err
		}),
	)
}

// toV2 reads an annotation that is no JSON as if it were not there, as clients of version 1 are used to.
func toV2(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) error {
	*out = autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	out.Annotations = withoutFields(in.Annotations)
	var metrics []autoscalingv1.MetricSpec
	if read(in.Annotations, metricsAnnotation, &metrics) {
		out.Spec.Metrics = each(metrics, metricToV2)
	}
	if p := in.Spec.TargetCPUUtilizationPercentage; p != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(*p))
	}
	if len(out.Spec.Metrics) == 0 {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	var behavior autoscalingv2.HorizontalPodAutoscalerBehavior
	if read(in.Annotations, behaviorAnnotation, &behavior) && behavior != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		out.Spec.Behavior = &behavior
	}
	var current []autoscalingv1.MetricStatus
	if read(in.Annotations, currentAnnotation, &current) {
		// It has the field's figure, and more.
		out.Status.CurrentMetrics = each(current, statusToV2)
	} else if p := in.Status.CurrentCPUUtilizationPercentage; p != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: p},
			},
		}}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if read(in.Annotations, conditionsAnnotation, &conditions) {
		out.Status.Conditions = each(conditions, func(c *autoscalingv1.HorizontalPodAutoscalerCondition) (to autoscalingv2.HorizontalPodAutoscalerCondition) {
			to.Type, to.Status, to.LastTransitionTime = autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), c.Status, c.LastTransitionTime
			to.Reason, to.Message, to.ObservedGeneration = c.Reason, c.Message, c.ObservedGeneration
			return to
		})
	}
	return nil
}

func toV1(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	*out = autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	out.Annotations = withoutFields(in.Annotations)
	var others []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if !isCPUUtilization(m) {
			others = append(others, metricToV1(m))
		} else if out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	for i := range in.Status.CurrentMetrics {
		m := in.Status.CurrentMetrics[i].Resource
		if m != nil && m.Name == corev1.ResourceCPU && m.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Current.AverageUtilization
		}
	}
	annotate := annotator(in.Annotations, out)
	err := annotate(metricsAnnotation, len(others) > 0, others)
	err = errors.Join(err, annotate(currentAnnotation, len(in.Status.CurrentMetrics) > 0, each(in.Status.CurrentMetrics, statusToV1)))
	err = errors.Join(err, annotate(behaviorAnnotation, in.Spec.Behavior != nil, unnamed(in.Spec.Behavior)))
	return errors.Join(err, annotate(conditionsAnnotation, len(in.Status.Conditions) > 0,
		each(in.Status.Conditions, func(c *autoscalingv2.HorizontalPodAutoscalerCondition) (to autoscalingv1.HorizontalPodAutoscalerCondition) {
			to.Type, to.Status, to.LastTransitionTime = autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), c.Status, c.LastTransitionTime
			to.Reason, to.Message, to.ObservedGeneration = c.Reason, c.Message, c.ObservedGeneration
			return to
		})))
}

// annotator returns what sets one of out's annotations to a value as JSON, if there is one. It copies the map that out has from the
// stored object before the first.
func annotator(stored map[string]string, out *autoscalingv1.HorizontalPodAutoscaler) func(key string, there bool, value any) error {
	copied := len(out.Annotations) != len(stored)
	return func(key string, there bool, value any) error {
		if !there {
			return nil
		}
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode annotation %s: %w", key, err)
		}
		if !copied {
			out.Annotations = maps.Clone(out.Annotations)
			copied = true
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[key] = string(text)
		return nil
	}
}

// read decodes an annotation, and says whether it is there and can be.
func read(annotations map[string]string, key string, into any) bool {
	text, ok := annotations[key]
	return ok && json.Unmarshal([]byte(text), into) == nil
}

func each[F, T any](in []F, convert func(*F) T) []T {
	out := make([]T, len(in))
	for i := range in {
		out[i] = convert(&in[i])
	}
	return out
}

// isCPUUtilization says whether the metric is what version 1 has a field for.
func isCPUUtilization(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.AverageUtilization != nil
}

// The annotation for the behavior has the names of the fields as Go has them, which is how it was first written. Readers take any case.
type (
	behaviorText struct{ ScaleUp, ScaleDown *rulesText }
	rulesText    struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []policyText
		Tolerance                  *apiresource.Quantity
	}
	policyText struct {
		Type                 autoscalingv2.HPAScalingPolicyType
		Value, PeriodSeconds int32
	}
)

func unnamed(b *autoscalingv2.HorizontalPodAutoscalerBehavior) *behaviorText {
	if b == nil {
		return nil
	}
	rules := func(r *autoscalingv2.HPAScalingRules) *rulesText {
		if r == nil {
			return nil
		}
		policies := each(r.Policies, func(p *autoscalingv2.HPAScalingPolicy) policyText { return policyText(*p) })
		return &rulesText{r.StabilizationWindowSeconds, r.SelectPolicy, policies, r.Tolerance}
	}
	return &behaviorText{rules(b.ScaleUp), rules(b.ScaleDown)}
}
