package horizontalpodautoscaler

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/test/controltest"
)

// metricsAPI answers as the servers do that measure, with what is set; what is not is not found.
type metricsAPI struct {
	answers atomic.Pointer[map[string]string]
	config  *rest.Config
}

func serveMetrics(t *testing.T) *metricsAPI {
	t.Helper()
	m := &metricsAPI{}
	m.answer(nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := (*m.answers.Load())[r.URL.Path+"?"+r.URL.Query().Encode()]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	m.config = &rest.Config{Host: s.URL}
	return m
}

func (m *metricsAPI) answer(answers map[string]string) { m.answers.Store(&answers) }

// world is a running controller whose metrics are the test's.
type world struct {
	*controltest.World
	metrics    *metricsAPI
	controller *controller
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{metrics: serveMetrics(t)}
	w.World = controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		c, err := newController(d)
		if err != nil {
			return nil, err
		}
		c.meter.config = w.metrics.config
		w.controller = c
		return c.loop, nil
	})
	for _, informer := range []cache.SharedIndexInformer{
		w.Informers.Autoscaling().V2().HorizontalPodAutoscalers().Informer(), w.Informers.Core().V1().Events().Informer(),
		w.Informers.Core().V1().Pods().Informer(), w.Informers.Core().V1().ReplicationControllers().Informer(),
	} {
		w.Watch(t, informer)
	}
	return w
}

const selector = "app=web"

// target makes a controller of n Pods and the Pods, which are ready for an hour.
func (w *world) target(t *testing.T, n int32) {
	t.Helper()
	labels := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}
	template.Spec.Containers = []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("1")}}}}
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	rc.Spec = corev1.ReplicationControllerSpec{Replicas: &n, Selector: labels, Template: &template}
	controllers := w.Client.CoreV1().ReplicationControllers(controltest.Namespace)
	rc, err := controllers.Create(t.Context(), rc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rc.Status.Replicas = n
	if _, err := controllers.UpdateStatus(t.Context(), rc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		pods := w.Client.CoreV1().Pods(controltest.Namespace)
		p, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i), Labels: labels}, Spec: template.Spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		past := metav1.NewTime(time.Now().Add(-time.Hour))
		p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &past
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: past}}
		if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.Await(t, "Pods in the cache", func() bool {
		list, err := w.Informers.Core().V1().Pods().Lister().List(everything(t))
		if err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, p := range list {
			if controltest.Ready(p) {
				ready++
			}
		}
		return ready == int(n)
	})
}

func (w *world) scaler(t *testing.T, name string, metrics ...autoscalingv2.MetricSpec) {
	t.Helper()
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name}}
	hpa.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "web"},
		MaxReplicas:    5, Metrics: metrics,
	}
	if _, err := w.Client.AutoscalingV2().HorizontalPodAutoscalers(controltest.Namespace).Create(t.Context(), hpa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(t *testing.T, name string) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	hpa, err := w.Client.AutoscalingV2().HorizontalPodAutoscalers(controltest.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return hpa
}

// condition waits until the autoscaler has a condition of that reason and returns its message.
func (w *world) condition(t *testing.T, name string, of autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason string) (message string) {
	t.Helper()
	w.Await(t, fmt.Sprintf("%s: %s %s %s", name, of, status, reason), func() bool {
		for _, c := range w.get(t, name).Status.Conditions {
			if c.Type == of && c.Status == status && c.Reason == reason {
				message = c.Message
				return true
			}
		}
		return false
	})
	return message
}

func (w *world) replicas(t *testing.T) int32 {
	t.Helper()
	scale, err := w.Client.CoreV1().ReplicationControllers(controltest.Namespace).GetScale(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return scale.Spec.Replicas
}

const podMetrics = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb"

// usage is the answer for two Pods that use so much CPU.
func usage(cpu ...string) string {
	var items []string
	for i, q := range cpu {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":"web-%d"},"timestamp":%q,"window":"30s","containers":[{"name":"c","usage":{"cpu":%q}}]}`,
			i, time.Now().UTC().Format(time.RFC3339), q))
	}
	return `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[` + strings.Join(items, ",") + `]}`
}

func TestScalesByCPU(t *testing.T) {
	w := start(t)
	w.target(t, 2)
	w.metrics.answer(map[string]string{podMetrics: usage("1200m", "1200m")})
	w.scaler(t, "web") // the default, 80 %
	message := w.condition(t, "web", autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale")
	if message != "the HPA controller was able to update the target scale to 3" || w.replicas(t) != 3 {
		t.Errorf("%s; scaled to %d", message, w.replicas(t))
	}
	st := w.get(t, "web").Status
	if st.CurrentReplicas != 2 || st.DesiredReplicas != 3 || st.LastScaleTime == nil || *st.ObservedGeneration != 1 ||
		len(st.CurrentMetrics) != 1 || *st.CurrentMetrics[0].Resource.Current.AverageUtilization != 120 || st.CurrentMetrics[0].Resource.Current.AverageValue.String() != "1200m" {
		t.Errorf("status %+v", st)
	}
	message = w.condition(t, "web", autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound")
	if message != "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)" {
		t.Error(message)
	}
	w.condition(t, "web", autoscalingv2.ScalingLimited, corev1.ConditionFalse, "DesiredWithinRange")
	w.Await(t, "an event", func() bool {
		return w.event(t, "SuccessfulRescale", "New size: 3; reason: cpu resource utilization (percentage of request) above target")
	})
	// A change of the spec is acted upon at once: now there are too many.
	w.change(t, `{"spec":{"maxReplicas":1}}`)
	w.Await(t, "one replica", func() bool { return w.replicas(t) == 1 })
}

func TestSaysWhyItCannot(t *testing.T) {
	w := start(t)
	w.scaler(t, "web")
	if m := w.condition(t, "web", autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale"); m !=
		`the HPA controller was unable to get the target's current scale: replicationcontrollers "web" not found` {
		t.Error(m)
	}
	w.target(t, 1)
	w.change(t, `{"spec":{"maxReplicas":4}}`)
	if m := w.condition(t, "web", autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetResourceMetric"); m !=
		"the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: "+
			"unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)" {
		t.Error(m)
	}
	w.condition(t, "web", autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale")
	w.Await(t, "an event", func() bool {
		return w.event(t, "FailedComputeMetricsReplicas", "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: ")
	})
	w.change(t, `{"spec":{"scaleTargetRef":{"apiVersion":"example.com/v1","kind":"Other"}}}`)
	w.Await(t, "an unknown kind", func() bool {
		return strings.Contains(w.condition(t, "web", autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale"), `no matches for kind "Other" in group "example.com"`)
	})
}

func TestScalingIsDisabledAtZero(t *testing.T) {
	w := start(t)
	w.target(t, 0)
	w.scaler(t, "web")
	if m := w.condition(t, "web", autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled"); m != "scaling is disabled since the replica count of the target is zero" || w.replicas(t) != 0 {
		t.Errorf("%s; %d", m, w.replicas(t))
	}
}

// Two autoscalers of one target would not agree.
func TestRivals(t *testing.T) {
	w := start(t)
	w.target(t, 1)
	w.metrics.answer(map[string]string{podMetrics: usage("800m")})
	w.scaler(t, "a")
	w.condition(t, "a", autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound")
	w.scaler(t, "b")
	if m := w.condition(t, "b", autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector"); m != "pods by selector app=web are controlled by multiple HPAs: [{a default} {b default}]" {
		t.Error(m)
	}
}

// Of several metrics the highest counts. One that says nothing keeps the target from being made smaller, not from being made larger.
func TestMetricsOfEveryKind(t *testing.T) {
	average := func(n int64) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: apiresource.NewQuantity(n, apiresource.DecimalSI)}
	}
	service := autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "front"}
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: apiresource.NewQuantity(10, apiresource.DecimalSI)}
	metric := func(name string) autoscalingv2.MetricIdentifier { return autoscalingv2.MetricIdentifier{Name: name} }
	const custom = "/apis/custom.metrics.k8s.io"
	w := start(t)
	w.target(t, 2)
	w.metrics.answer(map[string]string{
		podMetrics: usage("1", "1"),
		custom + "?": `{"kind":"APIGroup","name":"custom.metrics.k8s.io","versions":[{"groupVersion":"custom.metrics.k8s.io/v1beta2","version":"v1beta2"}],
			"preferredVersion":{"groupVersion":"custom.metrics.k8s.io/v1beta2","version":"v1beta2"}}`,
		custom + "/v1beta2/namespaces/default/pods/*/hits?labelSelector=app%3Dweb&metricLabelSelector=": `{"items":[
			{"describedObject":{"name":"web-0"},"value":"12"},{"describedObject":{"name":"web-1"},"value":"8"}]}`,
		custom + "/v1beta2/namespaces/default/services/front/load?metricLabelSelector=":            `{"items":[{"value":"20"}]}`,
		custom + "/v1beta2/namespaces/default/metrics/all?metricLabelSelector=":                    `{"items":[{"value":"21"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=shard%3Done": `{"items":[{"value":"30"},{"value":"10"}]}`,
	})
	w.scaler(t, "web",
		autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
			Name: "cpu", Container: "c", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](100)}}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: metric("hits"), Target: average(10)}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{DescribedObject: service, Metric: metric("load"), Target: value}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "default"}, Metric: metric("all"), Target: average(10)}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "queue", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"shard": "one"}}}, Target: average(15)}},
		autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: metric("none"), Target: value}},
	)
	w.condition(t, "web", autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale")
	if n := w.replicas(t); n != 4 { // twice the Service's target
		t.Errorf("scaled to %d", n)
	}
	m := w.get(t, "web").Status.CurrentMetrics
	if len(m) != 6 || *m[0].ContainerResource.Current.AverageUtilization != 100 || m[1].Pods.Current.AverageValue.String() != "10" ||
		m[2].Object.Current.Value.String() != "20" || m[3].Object.Current.AverageValue.String() != "10500m" ||
		m[4].External.Current.AverageValue == nil || m[5].Type != "" {
		t.Errorf("metrics %+v", m)
	}
	w.Await(t, "an event", func() bool {
		return w.event(t, "FailedGetExternalMetric", "failed to get external metric none: unable to get external metric default/none/nil: "+
			"unable to fetch metrics from external metrics API: the server could not find the requested resource (get none.external.metrics.k8s.io)")
	})
	// Now the CPU alone is known, and little of it is used. Those that say nothing may want all there are.
	w.metrics.answer(map[string]string{podMetrics: usage("100m", "100m")})
	w.change(t, `{"spec":{"maxReplicas":9}}`)
	if m := w.condition(t, "web", autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetPodsMetric"); m !=
		"the HPA was unable to compute the replica count: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered" {
		t.Error(m)
	}
	if n := w.replicas(t); n != 4 {
		t.Errorf("made %d for want of metrics", n)
	}
}

func everything(t *testing.T) labels.Selector {
	t.Helper()
	s, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) change(t *testing.T, patch string) {
	t.Helper()
	_, err := w.Client.AutoscalingV2().HorizontalPodAutoscalers(controltest.Namespace).Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// event says whether there is an event of that reason whose message begins so.
func (w *world) event(t *testing.T, reason, message string) bool {
	t.Helper()
	list, err := w.Client.CoreV1().Events(controltest.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if strings.HasPrefix(e.Message, message) && e.InvolvedObject.Kind == "HorizontalPodAutoscaler" {
			return true
		}
	}
	return false
}
