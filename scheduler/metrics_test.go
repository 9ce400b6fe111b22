package scheduler

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	kmetrics "k8s.io/component-base/metrics"

	"github.com/peapod/peapod/scheduler/metrics"
)

// counted is a Set with a registry of its own.
func counted() (*metrics.Set, kmetrics.KubeRegistry) {
	r := kmetrics.NewKubeRegistry()
	return metrics.New(metrics.Registry{MustRegister: r.MustRegister, CustomMustRegister: r.CustomMustRegister}, corev1.DefaultSchedulerName), r
}

// wantMetrics wants these lines.
func wantMetrics(t *testing.T, r kmetrics.KubeRegistry, lines ...string) {
	t.Helper()
	w := httptest.NewRecorder()
	kmetrics.HandlerFor(r, kmetrics.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range lines {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("not in the metrics: %s", line)
		}
	}
	if t.Failed() {
		t.Log(w.Body)
	}
}

// What waits, what came of the attempts, and what brought Pods into the queues.
func TestMetricsFollowAPod(t *testing.T) {
	set, registry := counted()
	wantMetrics(t, registry, `scheduler_pending_pods{queue="active"} 0`, `scheduler_cache_size{type="nodes"} 0`)
	gated, gpu := pod("gated", ""), pod("gpu", "")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	gpu.Spec.NodeSelector = map[string]string{"gpu": "true"}
	h := startCounting(t, set, node("n1", nil), node("n2", nil), gated, gpu)
	h.wantEvent(t, "Warning FailedScheduling 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. "+
		"no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	wantMetrics(t, registry,
		`scheduler_pending_pods{queue="active"} 0`, `scheduler_pending_pods{queue="backoff"} 0`,
		`scheduler_pending_pods{queue="unschedulable"} 1`, `scheduler_pending_pods{queue="gated"} 1`,
		`scheduler_unschedulable_pods{plugin="NodeAffinity",profile="default-scheduler"} 1`,
		`scheduler_unschedulable_pods{plugin="SchedulingGates",profile="default-scheduler"} 1`,
		`scheduler_cache_size{type="nodes"} 2`,
		`scheduler_schedule_attempts_total{profile="default-scheduler",result="unschedulable"} 1`,
		`scheduler_preemption_attempts_total 1`,
		`scheduler_queue_incoming_pods_total{event="UnschedulablePodAdd",queue="active"} 1`,
		`scheduler_queue_incoming_pods_total{event="UnschedulablePodAdd",queue="unschedulable"} 1`,
		`scheduler_queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="unschedulable"} 1`,
		`scheduler_framework_extension_point_duration_seconds_count{extension_point="PostFilter",profile="default-scheduler",status="Unschedulable"} 1`,
	)
	if _, err := h.client.CoreV1().Nodes().Update(t.Context(), node("n1", map[string]string{"gpu": "true"}), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantEvent(t, "Normal Scheduled Successfully assigned default/gpu to n1")
	gated = gated.DeepCopy()
	gated.Spec.SchedulingGates = nil
	if _, err := h.client.CoreV1().Pods("default").Update(t.Context(), gated, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "gpu n1")
	<-h.bound
	<-h.events.Events
	h.stop()
	point := `scheduler_framework_extension_point_duration_seconds_count{extension_point="`
	wantMetrics(t, registry,
		`scheduler_pending_pods{queue="unschedulable"} 0`, `scheduler_pending_pods{queue="gated"} 0`, `scheduler_cache_size{type="nodes"} 0`,
		`scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 2`,
		`scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="scheduled"} 2`,
		`scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="unschedulable"} 1`,
		`scheduler_scheduling_algorithm_duration_seconds_count 3`,
		`scheduler_pod_scheduling_attempts_bucket{le="1"} 1`, `scheduler_pod_scheduling_attempts_bucket{le="2"} 2`,
		`scheduler_pod_scheduling_sli_duration_seconds_count{attempts="1"} 1`, `scheduler_pod_scheduling_sli_duration_seconds_count{attempts="2"} 1`,
		`scheduler_queue_incoming_pods_total{event="NodeUpdateNodeLabel",queue="active"} 1`,
		`scheduler_queue_incoming_pods_total{event="UnschedulablePodUpdatePodSchedulingGatesEliminated",queue="active"} 1`,
		point+`PreFilter",profile="default-scheduler",status="Success"} 3`, point+`Filter",profile="default-scheduler",status="Success"} 3`,
		point+`Score",profile="default-scheduler",status="Success"} 2`, point+`Reserve",profile="default-scheduler",status="Success"} 2`,
		point+`Bind",profile="default-scheduler",status="Success"} 2`,
	)
}

// A binding that the API refuses is an error, after which the Pod backs off.
func TestMetricsOfErrors(t *testing.T) {
	set, registry := counted()
	h := startCounting(t, set, node("n1", nil))
	h.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return a.GetSubresource() == "binding", nil, errors.New("no")
	})
	if err := h.client.Tracker().Add(pod("p", "")); err != nil {
		t.Fatal(err)
	}
	h.wantEvents(t, "Warning FailedScheduling binding rejected: no")
	wantMetrics(t, registry,
		`scheduler_schedule_attempts_total{profile="default-scheduler",result="error"} 1`,
		`scheduler_queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="backoff"} 1`,
		`scheduler_framework_extension_point_duration_seconds_count{extension_point="Bind",profile="default-scheduler",status="Error"} 1`,
	)
}

func TestMetricsOfPreemption(t *testing.T) {
	set, registry := counted()
	low := prioritized(pod("low", "2"), 1)
	low.Spec.NodeName = "n1"
	h := startCounting(t, set, node("n1", nil), low, prioritized(pod("vip", "1"), 1000))
	h.wantBound(t, "vip n1")
	h.stop()
	wantMetrics(t, registry, `scheduler_preemption_attempts_total 1`, `scheduler_preemption_victims_sum 1`, `scheduler_preemption_victims_count 1`,
		`scheduler_framework_extension_point_duration_seconds_count{extension_point="PostFilter",profile="default-scheduler",status="Success"} 1`,
		`scheduler_queue_incoming_pods_total{event="AssignedPodDelete",queue="active"} 1`)
}
