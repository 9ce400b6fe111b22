package pod_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// counted checks lines of the metrics.
func (s *stage) counted(lines ...string) {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.metrics.Kubelet().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range lines {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			s.t.Errorf("not in the metrics: %s", line)
		}
	}
	if s.t.Failed() {
		s.t.Log(w.Body.String())
	}
}

// TestWhatHappensIsCounted: a container that crashes is one that ended and two that were started; a Pod that another kubelet has
// started is not counted anew.
func TestWhatHappensIsCounted(t *testing.T) {
	s := newStage(t)
	s.start()
	p, refused := onePod("a", nil), demanding("b", "2Gi", nil)
	s.m.Upsert(p)
	s.until(p, "ran", running)
	if err := s.rt.Exit("main", 1, "Error"); err != nil {
		t.Fatal(err)
	}
	s.until(p, "restarted", func(st v1.PodStatus) bool { return running(st) && st.ContainerStatuses[0].RestartCount == 1 })
	s.m.Upsert(refused)
	s.until(refused, "was refused", func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed })
	s.counted(`kubelet_started_pods_total 1`, `kubelet_started_containers_total{container_type="container"} 2`,
		`kubelet_terminated_containers_total{container_type="container",exit_code="1",reason="Error"} 1`,
		`kubelet_pod_start_duration_seconds_count 1`, `kubelet_pod_worker_duration_seconds_count{operation_type="create"} 1`,
		`kubelet_admission_rejections_total{reason="OutOfmemory"} 1`)
	s.stop()

	s.start(p)
	s.m.Upsert(p)
	s.until(p, "was taken over", running)
	s.m.Upsert(deleted(p, 30))
	s.gone(p)
	s.counted(`kubelet_started_pods_total 0`, `kubelet_pod_start_duration_seconds_count 0`,
		`kubelet_terminated_containers_total{container_type="container",exit_code="0",reason="Completed"} 1`)
}
