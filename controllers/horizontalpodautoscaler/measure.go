package horizontalpodautoscaler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	custommetrics "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalmetrics "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// The APIs that measure. None is Kubernetes' own: a server answers for each, or none does.
var (
	resourceMetrics = metricsv1beta1.SchemeGroupVersion
	externalMetrics = externalmetrics.SchemeGroupVersion
)

const (
	customMetrics = "custom.metrics.k8s.io"
	// defaultWindow is that of metrics that say none.
	defaultWindow = time.Minute
)

// meter asks the APIs that measure. Its clients are made when they are first needed.
type meter struct {
	config *rest.Config
	mapper meta.RESTMapper
}

// client returns a client of one group version, so that errors name the group. It shares connections with all others of config.
func (m *meter) client(gv schema.GroupVersion) (rest.Interface, error) {
	c := rest.CopyConfig(m.config)
	c.GroupVersion, c.APIPath = &gv, "/apis"
	c.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", gv, err)
	}
	return client, nil
}

func get(ctx context.Context, r *rest.Request, into any) error {
	text, err := r.Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("decode metrics: %w", err)
	}
	return nil
}

// resource returns what Pods use of a resource; where container is not empty, what that container of theirs does.
func (m *meter) resource(ctx context.Context, name corev1.ResourceName, namespace string, pods labels.Selector, container string) (samples, error) {
	const failed = "unable to fetch metrics from resource metrics API: %w"
	client, err := m.client(resourceMetrics)
	if err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	var list metricsv1beta1.PodMetricsList
	if err := get(ctx, client.Get().Namespace(namespace).Resource("pods").Param("labelSelector", pods.String()), &list); err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no metrics returned from resource metrics API")
	}
	out := make(samples, len(list.Items))
	for i := range list.Items {
		p := &list.Items[i]
		value, ok := usageOf(p.Containers, name, container)
		if !ok {
			klog.FromContext(ctx).V(2).Info("Metrics of a Pod lack a container or resource", "pod", klog.KObj(p), "resource", name, "container", container)
			continue
		}
		out[p.Name] = sample{value, p.Timestamp.Time, p.Window.Duration}
	}
	return out, nil
}

// usageOf adds up what the containers use, or returns that of one. It is false where one of those that count has no figure.
func usageOf(containers []metricsv1beta1.ContainerMetrics, name corev1.ResourceName, only string) (sum int64, found bool) {
	for _, c := range containers {
		if only != "" && c.Name != only {
			continue
		}
		q, ok := c.Usage[name]
		if !ok {
			return 0, false
		}
		sum, found = sum+q.MilliValue(), true
	}
	return sum, found
}

// value is a custom metric of one object, in either version of the API.
type value struct {
	DescribedObject corev1.ObjectReference `json:"describedObject"`
	Timestamp       metav1.Time            `json:"timestamp"`
	Value           apiresource.Quantity   `json:"value"`
	// WindowSeconds is so called in v1beta2, and Window in v1beta1.
	WindowSeconds *int64 `json:"windowSeconds"`
	Window        *int64 `json:"window"`
}

// custom returns the values of a metric of the objects that path leads to: segments after the API's version and the namespace, the
// metric's name last.
func (m *meter) custom(ctx context.Context, namespace, resource, name, metric string, query map[string]string) ([]value, error) {
	const failed = "unable to fetch metrics from custom metrics API: %w"
	gv, err := m.customVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	client, err := m.client(gv)
	if err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	r := client.Get().Namespace(namespace).Resource(resource).Name(name)
	if resource != "metrics" {
		r = r.SubResource(metric)
	}
	for key, text := range query {
		r = r.Param(key, text)
	}
	var list struct {
		Items []value `json:"items"`
	}
	if err := get(ctx, r, &list); err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	return list.Items, nil
}

// customVersion asks in which version the custom metrics are served: nothing says when that changes.
func (m *meter) customVersion(ctx context.Context) (schema.GroupVersion, error) {
	client, err := m.client(custommetrics.SchemeGroupVersion)
	if err != nil {
		return schema.GroupVersion{}, err
	}
	var group metav1.APIGroup
	if err := get(ctx, client.Get().AbsPath("/apis", customMetrics), &group); err != nil {
		if apierrors.IsNotFound(err) {
			return schema.GroupVersion{}, fmt.Errorf("no custom metrics API (%s) registered", customMetrics)
		}
		return schema.GroupVersion{}, err
	}
	for _, v := range append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...) {
		if v.Version == "v1beta1" || v.Version == "v1beta2" {
			return schema.GroupVersion{Group: customMetrics, Version: v.Version}, nil
		}
	}
	return schema.GroupVersion{}, fmt.Errorf("no known available metric versions found")
}

// perPod returns a custom metric of Pods.
func (m *meter) perPod(ctx context.Context, metric *autoscalingv2.MetricIdentifier, namespace string, pods, values labels.Selector) (samples, error) {
	list, err := m.custom(ctx, namespace, "pods", "*", metric.Name, map[string]string{
		"labelSelector": pods.String(), "metricLabelSelector": values.String(),
	})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no metrics returned from custom metrics API")
	}
	out := make(samples, len(list))
	for _, v := range list {
		window := defaultWindow
		if v.WindowSeconds != nil {
			window = time.Duration(*v.WindowSeconds) * time.Second
		} else if v.Window != nil {
			window = time.Duration(*v.Window) * time.Second
		}
		out[v.DescribedObject.Name] = sample{v.Value.MilliValue(), v.Timestamp.Time, window}
	}
	return out, nil
}

// object returns a custom metric of one object in the namespace, or of that itself, in thousandths.
func (m *meter) object(ctx context.Context, metric *autoscalingv2.MetricIdentifier, namespace string,
	ref *autoscalingv2.CrossVersionObjectReference, values labels.Selector) (int64, error) {
	gk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	resource, name := "metrics", metric.Name
	if gk != (schema.GroupKind{Kind: "Namespace"}) {
		mapping, err := m.mapper.RESTMapping(gk)
		if err != nil {
			return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: unable to map kind %s to resource: %w", gk, err)
		}
		resource, name = mapping.Resource.GroupResource().String(), ref.Name
	}
	list, err := m.custom(ctx, namespace, resource, name, metric.Name, map[string]string{"metricLabelSelector": values.String()})
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: the custom metrics API server returned %d results when we asked for exactly one", len(list))
	}
	return list[0].Value.MilliValue(), nil
}

// external returns the sum of the values of a metric that is of no object, in thousandths.
func (m *meter) external(ctx context.Context, metric, namespace string, values labels.Selector) (int64, error) {
	const failed = "unable to fetch metrics from external metrics API: %w"
	client, err := m.client(externalMetrics)
	if err != nil {
		return 0, fmt.Errorf(failed, err)
	}
	var list externalmetrics.ExternalMetricValueList
	if err := get(ctx, client.Get().Namespace(namespace).Resource(metric).Param("labelSelector", values.String()), &list); err != nil {
		return 0, fmt.Errorf(failed, err)
	}
	if len(list.Items) == 0 {
		return 0, fmt.Errorf("no metrics returned from external metrics API")
	}
	var all []int64
	for _, v := range list.Items {
		all = append(all, v.Value.MilliValue())
	}
	return sum(all), nil
}
