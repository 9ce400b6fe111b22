package horizontalpodautoscaler

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/randfill"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := register(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func converted[T any](t *testing.T, s *runtime.Scheme, from any) *T {
	t.Helper()
	to := new(T)
	if err := s.Convert(from, to, nil); err != nil {
		t.Fatal(err)
	}
	return to
}

// full is an object that no field of version 1 holds the most of. Its metrics are in the order in which version 1 gives them back.
func full() *autoscalingv2.HorizontalPodAutoscaler {
	q := func(s string) *apiresource.Quantity { return ptr.To(apiresource.MustParse(s)) }
	at := metav1.Unix(1000, 0)
	obj := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"a": "b"}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}
	service := autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "web", APIVersion: "v1"}
	obj.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "web", APIVersion: "apps/v1"},
		MinReplicas:    ptr.To[int32](2), MaxReplicas: 7,
		Metrics: []autoscalingv2.MetricSpec{
			{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: service, Metric: identifier("hits", selector),
				Target: autoscalingv2.MetricTarget{Type: "Value", Value: q("3")}}},
			{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{DescribedObject: service, Metric: identifier("hits", nil),
				Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("3")}}},
			{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{Metric: identifier("hits", selector),
				Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("3")}}},
			{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory",
				Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To[int32](40)}}},
			{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "c",
				Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: q("30m")}}},
			{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: identifier("queue", selector),
				Target: autoscalingv2.MetricTarget{Type: "Value", Value: q("30")}}},
			cpuMetric(60),
		},
		Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: ptr.To[int32](3), SelectPolicy: ptr.To(autoscalingv2.MinChangePolicySelect), Tolerance: q("50m"),
			Policies: []autoscalingv2.HPAScalingPolicy{{Type: "Pods", Value: 1, PeriodSeconds: 2}},
		}},
	}
	obj.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: ptr.To[int64](3), LastScaleTime: &at, CurrentReplicas: 2, DesiredReplicas: 3,
		CurrentMetrics: []autoscalingv2.MetricStatus{
			{Type: "Object", Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: service, Metric: identifier("hits", selector),
				Current: autoscalingv2.MetricValueStatus{Value: q("2")}}},
			{Type: "Object", Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: service, Metric: identifier("hits", nil),
				Current: autoscalingv2.MetricValueStatus{AverageValue: q("2")}}},
			{Type: "Pods", Pods: &autoscalingv2.PodsMetricStatus{Metric: identifier("hits", selector),
				Current: autoscalingv2.MetricValueStatus{AverageValue: q("2")}}},
			{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: "cpu", Container: "c",
				Current: autoscalingv2.MetricValueStatus{AverageValue: q("20m"), AverageUtilization: ptr.To[int32](4)}}},
			{Type: "External", External: &autoscalingv2.ExternalMetricStatus{Metric: identifier("queue", selector),
				Current: autoscalingv2.MetricValueStatus{Value: q("2")}}},
			{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageValue: q("20m"), AverageUtilization: ptr.To[int32](55)}}},
		},
		Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: "AbleToScale", Status: "True", LastTransitionTime: at, Reason: "R", Message: "m"}},
	}
	return obj
}

// What version 1 has no fields for goes through its annotations and comes back; the stored object is left alone.
func TestVersion1LosesNothing(t *testing.T) {
	s, was := scheme(t), full()
	untouched := was.DeepCopy()
	v1 := converted[autoscalingv1.HorizontalPodAutoscaler](t, s, was)
	if diff := cmp.Diff(untouched, was); diff != "" {
		t.Errorf("conversion has changed what it read (-was +is):\n%s", diff)
	}
	if *v1.Spec.TargetCPUUtilizationPercentage != 60 || *v1.Status.CurrentCPUUtilizationPercentage != 55 || v1.Annotations["a"] != "b" || len(v1.Annotations) != 5 {
		t.Errorf("version 1: %+v", v1)
	}
	// The names of Go's fields are what other readers of this annotation know.
	if text := v1.Annotations[behaviorAnnotation]; !strings.Contains(text, `"ScaleUp":{"StabilizationWindowSeconds":3,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":2}],"Tolerance":"50m"}`) {
		t.Errorf("behavior: %s", text)
	}
	if text := v1.Annotations[metricsAnnotation]; !strings.Contains(text, `{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":40}}`) {
		t.Errorf("metrics: %s", text)
	}
	before := maps.Clone(v1.Annotations)
	back := converted[autoscalingv2.HorizontalPodAutoscaler](t, s, v1)
	if diff := cmp.Diff(was, back, cmpopts.EquateApproxTime(0), cmp.Comparer(func(a, b apiresource.Quantity) bool { return a.Cmp(b) == 0 })); diff != "" {
		t.Errorf("version 2 -> 1 -> 2 (-was +is):\n%s", diff)
	}
	if !maps.Equal(before, v1.Annotations) {
		t.Errorf("conversion has changed the annotations that it read to %v", v1.Annotations)
	}
}

// The fields of version 1 alone, in lists.
func TestVersion1Fields(t *testing.T) {
	s := scheme(t)
	fill := randfill.NewWithSeed(1).NilChance(0.2).NumElements(0, 3).Funcs(
		func(at *metav1.Time, c randfill.Continue) { at.Time = time.Unix(c.Int63n(1<<32), 0) },
		func(m *metav1.TypeMeta, _ randfill.Continue) {},
	)
	for range 50 {
		var list autoscalingv1.HorizontalPodAutoscalerList
		fill.Fill(&list)
		for i := range list.Items {
			if p := &list.Items[i].Spec.TargetCPUUtilizationPercentage; *p == nil {
				*p = ptr.To[int32](defaultUtilization)
			}
		}
		v2 := converted[autoscalingv2.HorizontalPodAutoscalerList](t, s, &list)
		back := converted[autoscalingv1.HorizontalPodAutoscalerList](t, s, v2)
		for i := range back.Items {
			delete(back.Items[i].Annotations, currentAnnotation)
		}
		if diff := cmp.Diff(&list, back, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("version 1 -> 2 -> 1 (-was +is):\n%s", diff)
		}
	}
}

// An object that says nothing of what to measure measures CPU; one whose annotations do, in whatever case, does not. Annotations that
// are no JSON are dropped.
func TestVersion1Defaults(t *testing.T) {
	s := scheme(t)
	for name, c := range map[string]struct {
		annotations map[string]string
		want        []autoscalingv2.MetricSpec
		behavior    bool
	}{
		"nothing": {nil, []autoscalingv2.MetricSpec{cpuMetric(80)}, false},
		"none":    {map[string]string{metricsAnnotation: "[]", behaviorAnnotation: "{}"}, []autoscalingv2.MetricSpec{cpuMetric(80)}, false},
		"no JSON": {map[string]string{metricsAnnotation: "{", conditionsAnnotation: "7", behaviorAnnotation: "x", currentAnnotation: "]"}, []autoscalingv2.MetricSpec{cpuMetric(80)}, false},
		"memory": {map[string]string{
			metricsAnnotation:  `[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":40}}]`,
			behaviorAnnotation: `{"scaleUp":{"stabilizationWindowSeconds":3}}`,
		}, []autoscalingv2.MetricSpec{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory",
			Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To[int32](40)}}}}, true},
	} {
		in := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}}
		kindV1{}.Default(in)
		got := converted[autoscalingv2.HorizontalPodAutoscaler](t, s, in)
		if diff := cmp.Diff(c.want, got.Spec.Metrics); diff != "" {
			t.Errorf("%s: metrics (-want +got):\n%s", name, diff)
		}
		if (got.Spec.Behavior != nil) != c.behavior || *got.Spec.MinReplicas != 1 || len(got.Annotations) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
		if c.behavior && *got.Spec.Behavior.ScaleUp.StabilizationWindowSeconds != 3 {
			t.Errorf("%s: behavior %+v", name, got.Spec.Behavior.ScaleUp)
		}
	}
}
