package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// asked is what the metrics of an autoscaler are asked about.
type asked struct {
	namespace string
	// wanted and there are the target's replicas, as its spec and its status say.
	wanted, there int32
	selector      labels.Selector
	pods          []*corev1.Pod
	allowed       tolerances
}

// proposal is what one metric says.
type proposal struct {
	replicas int32
	// metric is how events call it.
	metric string
	status autoscalingv2.MetricStatus
}

// unknown is why a metric says nothing.
type unknown struct {
	// reason is that of the condition and event, cause what they tell.
	reason string
	cause  error
	// of says which metric, for the sum of what went wrong.
	of string
}

func (u *unknown) Error() string { return fmt.Sprintf("failed to get %s: %v", u.of, u.cause) }

// propose asks one metric.
func (c *controller) propose(ctx context.Context, spec *autoscalingv2.MetricSpec, a *asked) (*proposal, *unknown) {
	var p *proposal
	var err error
	u := &unknown{}
	switch spec.Type {
	case autoscalingv2.ObjectMetricSourceType:
		u.reason, u.of = "FailedGetObjectMetric", "object metric value"
		p, err = c.object(ctx, spec.Object, a)
	case autoscalingv2.PodsMetricSourceType:
		u.reason, u.of = "FailedGetPodsMetric", "pods metric value"
		p, err = c.perPod(ctx, spec.Pods, a)
	case autoscalingv2.ResourceMetricSourceType:
		u.reason, u.of = "FailedGetResourceMetric", string(spec.Resource.Name)+" resource metric value"
		var current *autoscalingv2.MetricValueStatus
		p, current, err = c.resource(ctx, spec.Resource.Name, "", &spec.Resource.Target, a)
		if err == nil {
			p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: spec.Resource.Name, Current: *current}
		}
	case autoscalingv2.ContainerResourceMetricSourceType:
		s := spec.ContainerResource
		u.reason, u.of = "FailedGetContainerResourceMetric", s.Container+" container metric value"
		var current *autoscalingv2.MetricValueStatus
		p, current, err = c.resource(ctx, s.Name, s.Container, &s.Target, a)
		if err == nil {
			p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: s.Name, Container: s.Container, Current: *current}
		}
	case autoscalingv2.ExternalMetricSourceType:
		u.reason, u.of = "FailedGetExternalMetric", spec.External.Metric.Name+" external metric value"
		p, err = c.external(ctx, spec.External, a)
	default:
		u.reason, u.of = "InvalidMetricSourceType", "metric value"
		err = fmt.Errorf("unknown metric source type %q", string(spec.Type))
	}
	if err != nil {
		u.cause = err
		return nil, u
	}
	p.status.Type = spec.Type
	return p, nil
}

// resource asks for what Pods use, against an amount or their requests.
func (c *controller) resource(ctx context.Context, name corev1.ResourceName, container string, target *autoscalingv2.MetricTarget,
	a *asked) (*proposal, *autoscalingv2.MetricValueStatus, error) {
	what := "utilization"
	switch {
	case target.AverageValue != nil:
		what = "usage"
	case target.AverageUtilization == nil:
		return nil, nil, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	failed := func(err error) (*proposal, *autoscalingv2.MetricValueStatus, error) {
		return nil, nil, fmt.Errorf("failed to get %s %s: %w", name, what, err)
	}
	measured, err := c.meter.resource(ctx, name, a.namespace, a.selector, container)
	if err != nil {
		return failed(fmt.Errorf("unable to get metrics for resource %s: %w", name, err))
	}
	crew, err := tellApart(a.pods, measured, name == corev1.ResourceCPU, c.clock.Now())
	if err != nil {
		return failed(err)
	}
	p, current := &proposal{metric: string(name) + " resource"}, &autoscalingv2.MetricValueStatus{}
	var g gauge
	var amount int64
	if target.AverageValue != nil {
		var average func(samples) int64
		g, average = plain(target.AverageValue.MilliValue())
		amount = average(crew.have)
	} else {
		requests, err := requestsOf(a.pods, container, name)
		if err != nil {
			return failed(err)
		}
		var figures func(samples) (int32, int64, error)
		g, figures = utilized(*target.AverageUtilization, requests)
		percent, average, err := figures(crew.have)
		if err != nil {
			return failed(err)
		}
		current.AverageUtilization, amount = &percent, average
		p.metric = string(name) + " resource utilization (percentage of request)"
		if container != "" {
			p.metric = string(name) + " container resource utilization (percentage of request)"
		}
	}
	format := apiresource.DecimalSI
	if name == corev1.ResourceMemory {
		format = apiresource.BinarySI
	}
	current.AverageValue = apiresource.NewMilliQuantity(amount, format)
	if p.replicas, err = crew.replicas(a.wanted, g, a.allowed); err != nil {
		return failed(err)
	}
	return p, current, nil
}

// perPod asks for a metric that each Pod has.
func (c *controller) perPod(ctx context.Context, s *autoscalingv2.PodsMetricSource, a *asked) (*proposal, error) {
	values, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return nil, err
	}
	measured, err := c.meter.perPod(ctx, &s.Metric, a.namespace, a.selector, values)
	if err != nil {
		return nil, fmt.Errorf("unable to get metric %s: %w", s.Metric.Name, err)
	}
	crew, err := tellApart(a.pods, measured, false, c.clock.Now())
	if err != nil {
		return nil, err
	}
	g, average := plain(s.Target.AverageValue.MilliValue())
	amount := average(crew.have)
	p := &proposal{metric: "pods metric " + s.Metric.Name}
	if p.replicas, err = crew.replicas(a.wanted, g, a.allowed); err != nil {
		return nil, err
	}
	p.status.Pods = &autoscalingv2.PodsMetricStatus{Metric: s.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(amount)}}
	return p, nil
}

// object asks for a metric of another object.
func (c *controller) object(ctx context.Context, s *autoscalingv2.ObjectMetricSource, a *asked) (*proposal, error) {
	values, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return nil, err
	}
	shared := s.Target.Type == autoscalingv2.AverageValueMetricType && s.Target.AverageValue != nil
	if !shared && (s.Target.Type != autoscalingv2.ValueMetricType || s.Target.Value == nil) {
		return nil, errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	amount, err := c.meter.object(ctx, &s.Metric, a.namespace, &s.DescribedObject, values)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s: %w on %s %s/%s", s.Metric.Name, err, s.DescribedObject.Kind, a.namespace, s.DescribedObject.Name)
		if shared {
			err = fmt.Errorf("failed to get %s object metric: %w", s.Metric.Name, err)
		}
		return nil, err
	}
	p := &proposal{metric: fmt.Sprintf("%s metric %s", s.DescribedObject.Kind, s.Metric.Name)}
	if shared {
		p.metric = fmt.Sprintf("external metric %s(%+v)", s.Metric.Name, s.Metric.Selector)
	}
	current, err := a.share(p, &s.Target, shared, amount)
	if err != nil {
		return nil, err
	}
	p.status.Object = &autoscalingv2.ObjectMetricStatus{DescribedObject: s.DescribedObject, Metric: s.Metric, Current: current}
	return p, nil
}

// external asks for a metric that is of no object.
func (c *controller) external(ctx context.Context, s *autoscalingv2.ExternalMetricSource, a *asked) (*proposal, error) {
	shared := s.Target.AverageValue != nil
	failed := func(err error) (*proposal, error) {
		if shared {
			return nil, fmt.Errorf("failed to get %s external metric: %w", s.Metric.Name, err)
		}
		return nil, fmt.Errorf("failed to get external metric %s: %w", s.Metric.Name, err)
	}
	if !shared && s.Target.Value == nil {
		return nil, errors.New("invalid external metric source: neither a value target nor an average value target was set")
	}
	values, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return failed(err)
	}
	amount, err := c.meter.external(ctx, s.Metric.Name, a.namespace, values)
	if err != nil {
		return failed(fmt.Errorf("unable to get external metric %s/%s/%+v: %w", a.namespace, s.Metric.Name, s.Metric.Selector, err))
	}
	p := &proposal{metric: fmt.Sprintf("external metric %s(%+v)", s.Metric.Name, s.Metric.Selector)}
	current, err := a.share(p, &s.Target, shared, amount)
	if err != nil {
		return failed(err)
	}
	p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: s.Metric, Current: current}
	return p, nil
}

// share fills in how many replicas a value takes that is not that of single Pods: so many that each has its share of it, or as many
// times those that are ready as it is its target.
func (a *asked) share(p *proposal, target *autoscalingv2.MetricTarget, shared bool, amount int64) (is autoscalingv2.MetricValueStatus, err error) {
	if shared {
		var each int64
		p.replicas, each = perPod(a.there, amount, target.AverageValue.MilliValue(), a.allowed)
		is.AverageValue = milli(each)
		return is, nil
	}
	p.replicas, err = perReady(a.wanted, float64(amount)/float64(target.Value.MilliValue()), a.pods, a.allowed)
	is.Value = milli(amount)
	return is, err
}

func milli(n int64) *apiresource.Quantity {
	return apiresource.NewMilliQuantity(n, apiresource.DecimalSI)
}

// groupKind is what a reference is about.
func groupKind(ref *autoscalingv2.CrossVersionObjectReference) (schema.GroupKind, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, err
}
