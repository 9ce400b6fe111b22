package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// broken is a runtime that starts nothing.
type broken struct{ internalapi.RuntimeService }

func (broken) StartContainer(context.Context, string) error { return errors.New("no") }
func (broken) RunPodSandbox(context.Context, *runtimeapi.PodSandboxConfig, string) (string, error) {
	return "", errors.New("no")
}
func (broken) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return nil, nil
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("not in the metrics: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestCounts(t *testing.T) {
	s := New()
	r := s.Runtime(broken{})
	_ = r.StartContainer(t.Context(), "a")
	_, _ = r.RunPodSandbox(t.Context(), nil, "h")
	_, _ = r.ListContainers(t.Context(), nil)
	no := false
	s.SandboxStarted(&v1.Pod{}, nil)
	s.SandboxStarted(&v1.Pod{Spec: v1.PodSpec{HostUsers: &no}}, errors.New("no"))
	s.ContainerStarted("container", "")
	s.ContainerStarted("init_container", "ErrImagePull")
	s.ContainerEnded("container", &v1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"})
	for _, reason := range []string{"OutOfcpu", "OutOfexample.com/dev", "NodePorts"} {
		s.Rejected(reason)
	}
	s.Preempted("memory")
	s.Evicted("memory.available")
	s.Pulled(3*time.Second, 11<<20)
	s.ImageCollected("space")
	s.ImageVolume(nil)
	s.ImageVolume(errors.New("no"))
	s.StorageDone("kubernetes.io/secret", "volume_mount", time.Now(), errors.New("no"))
	s.PodRuns(time.Second, 2*time.Second)
	s.Synced("create", time.Second)
	want(t, scrape(t, s.Kubelet()),
		`kubelet_runtime_operations_total{operation_type="start_container"} 1`, `kubelet_runtime_operations_errors_total{operation_type="start_container"} 1`,
		`kubelet_runtime_operations_total{operation_type="list_containers"} 1`, `kubelet_runtime_operations_duration_seconds_count{operation_type="run_podsandbox"} 1`,
		`kubelet_run_podsandbox_errors_total{runtime_handler="h"} 1`, `kubelet_started_pods_total 2`, `kubelet_started_pods_errors_total 1`,
		`kubelet_started_user_namespaced_pods_total 1`, `kubelet_started_containers_total{container_type="init_container"} 1`,
		`kubelet_started_containers_errors_total{code="ErrImagePull",container_type="init_container"} 1`,
		`kubelet_terminated_containers_total{container_type="container",exit_code="137",reason="OOMKilled"} 1`,
		`kubelet_admission_rejections_total{reason="OutOfcpu"} 1`, `kubelet_admission_rejections_total{reason="OutOfExtendedResources"} 1`, `kubelet_admission_rejections_total{reason="Other"} 1`,
		`kubelet_preemptions{preemption_signal="memory"} 1`, `kubelet_evictions{eviction_signal="memory.available"} 1`,
		`kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes="10MB-100MB",le="5"} 1`, `kubelet_image_garbage_collected_total{reason="space"} 1`,
		`kubelet_image_volume_requested_total 2`, `kubelet_image_volume_mounted_errors_total 1`, `kubelet_image_volume_mounted_succeed_total 1`,
		`storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="fail-unknown",volume_plugin="kubernetes.io/secret"} 1`,
		`kubelet_pod_start_duration_seconds_bucket{le="1"} 1`, `kubelet_pod_worker_duration_seconds_count{operation_type="create"} 1`,
	)
	if strings.Contains(scrape(t, s.Kubelet()), `errors_total{operation_type="list_containers"}`) {
		t.Error("what succeeds is counted as an error")
	}
}

func TestProbesAreForgotten(t *testing.T) {
	s := New()
	p := Probe{"Liveness", "c", "pod", "ns", "uid"}
	s.Probed(p, "successful", time.Millisecond)
	s.Probed(p, "failed", time.Millisecond)
	s.Probed(p, "unknown", time.Millisecond)
	want(t, scrape(t, s.Probes()),
		`prober_probe_total{container="c",namespace="ns",pod="pod",pod_uid="uid",probe_type="Liveness",result="failed"} 1`,
		`prober_probe_duration_seconds_count{container="c",namespace="ns",pod="pod",probe_type="Liveness"} 3`)
	s.ForgetProbe(p)
	if text := scrape(t, s.Probes()); strings.Contains(text, `"ns"`) {
		t.Errorf("left of a probe that is made no more: %s", text)
	}
}

// A kubelet without a Set counts nothing.
func TestNil(t *testing.T) {
	var s *Set
	s.SandboxStarted(&v1.Pod{}, nil)
	s.Probed(Probe{}, "failed", 0)
	s.Pulled(0, 0)
	s.StorageDone("", "", time.Time{}, nil)
}

// BenchmarkOperation is what counting an operation of the runtime costs.
func BenchmarkOperation(b *testing.B) {
	r := New().Runtime(broken{})
	for b.Loop() {
		_, _ = r.ListContainers(b.Context(), nil)
	}
}

func TestRequests(t *testing.T) {
	s := New()
	h := s.Requests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/exec/ns/pod/c" {
			want(t, scrape(t, s.Kubelet()), `kubelet_http_inflight_requests{long_running="true",method="POST",path="exec",server_type="readwrite"} 1`)
		}
	}))
	for path, method := range map[string]string{"/metrics/probes": "GET", "/exec/ns/pod/c": "POST", "/attach/ns/pod/c": "POST", "/portForward/ns/pod": "GET",
		"/metricsx": "GET", "/a/b": "INVENTED"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
	}
	want(t, scrape(t, s.Kubelet()),
		`kubelet_http_requests_total{long_running="false",method="GET",path="metrics/probes",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="false",method="GET",path="other",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="true",method="POST",path="attach",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="true",method="GET",path="portForward",server_type="readwrite"} 1`,
		`kubelet_http_requests_total{long_running="false",method="other",path="other",server_type="readwrite"} 1`,
		`kubelet_http_requests_duration_seconds_count{long_running="true",method="POST",path="exec",server_type="readwrite"} 1`,
		`kubelet_http_inflight_requests{long_running="true",method="POST",path="exec",server_type="readwrite"} 0`,
	)
}

// What a driver answers is counted by its code, and reaches who asked.
func TestCSICalls(t *testing.T) {
	s := New()
	call := s.CSICalls("d")
	for _, answer := range []error{nil, status.Error(codes.Unavailable, "no")} {
		got := call(t.Context(), "/csi.v1.Node/M", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return answer })
		if got != answer {
			t.Errorf("who asked is told %v, want %v", got, answer)
		}
	}
	const begin, end = `csi_operations_seconds_count{driver_name="d",grpc_status_code="`, `",method_name="/csi.v1.Node/M",migrated="false"} 1`
	want(t, scrape(t, s.Kubelet()), begin+"OK"+end, begin+"Unavailable"+end)
}

func TestDevicePlugins(t *testing.T) {
	s := New()
	s.DevicePluginRegistered("example.com/gpu")
	s.DevicesAllocated("example.com/gpu", time.Second)
	want(t, scrape(t, s.Kubelet()), `kubelet_device_plugin_registration_total{resource_name="example.com/gpu"} 1`,
		`kubelet_device_plugin_alloc_duration_seconds_sum{resource_name="example.com/gpu"} 1`)
	var none *Set
	none.DevicePluginRegistered("a")
	none.DevicesAllocated("a", 0)
}
