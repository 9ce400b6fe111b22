package stats

import (
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/kubelet/pod"
)

type manyPods struct {
	pod.Lookup
	all []*v1.Pod
}

func (l manyPods) Pods() []*v1.Pod { return l.all }

func TestPodsAreCounted(t *testing.T) {
	s := newStage(t)
	made := func(phase v1.PodPhase, states ...v1.ContainerState) *v1.Pod {
		p := &v1.Pod{Status: v1.PodStatus{Phase: phase, Conditions: []v1.PodCondition{{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}}}}
		for _, state := range states {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, v1.ContainerStatus{State: state})
			if state.Running != nil {
				p.Status.Conditions[0].Status = v1.ConditionTrue
			}
		}
		return p
	}
	runs, ended, waits := v1.ContainerState{Running: &v1.ContainerStateRunning{}}, v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}, v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}
	own, ending := made(v1.PodRunning, runs), made(v1.PodRunning, runs)
	for _, p := range []*v1.Pod{own, ending} {
		p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	}
	ending.DeletionTimestamp = &metav1.Time{}
	lookup := manyPods{all: []*v1.Pod{made(v1.PodRunning, runs, runs, ended), made(v1.PodFailed, ended), made(v1.PodPending, waits), own, ending}}
	s.cfg.Pods = func() pod.Lookup { return lookup }
	w := httptest.NewRecorder()
	metricsHandler(newPodCollector(s.Provider)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`kubelet_node_name{node="n1"} 1`, `kubelet_desired_pods{static=""} 3`, `kubelet_desired_pods{static="true"} 1`,
		`kubelet_active_pods{static=""} 2`, `kubelet_active_pods{static="true"} 2`, `kubelet_mirror_pods 1`, `kubelet_running_pods 3`,
		`kubelet_running_containers{container_state="running"} 4`, `kubelet_running_containers{container_state="exited"} 2`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("not in the metrics: %s", want)
		}
	}
	if t.Failed() {
		t.Log(w.Body.String())
	}
}
