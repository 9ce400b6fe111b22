package probe

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/pod"
)

func told(ready v1.ConditionStatus, id string, started *bool, containerReady bool) v1.PodStatus {
	return v1.PodStatus{
		Conditions:        []v1.PodCondition{{Type: v1.PodReady, Status: ready}},
		ContainerStatuses: []v1.ContainerStatus{{Name: "c", ContainerID: id, Started: started, Ready: containerReady}},
	}
}

// TestKnown: only what is said of the same instance counts, and of readiness only while the whole Pod is ready.
func TestKnown(t *testing.T) {
	yes, no := new(true), new(false)
	sidecar := told(v1.ConditionTrue, "peapod://i", yes, true)
	sidecar.InitContainerStatuses, sidecar.ContainerStatuses = sidecar.ContainerStatuses, nil
	for name, c := range map[string]struct {
		status                       v1.PodStatus
		startup, liveness, readiness pod.Result
	}{
		"nothing":           {v1.PodStatus{}, pod.Unknown, pod.Success, pod.Unknown},
		"ready":             {told(v1.ConditionTrue, "peapod://i", yes, true), pod.Success, pod.Success, pod.Success},
		"sidecar":           {sidecar, pod.Success, pod.Success, pod.Success},
		"other instance":    {told(v1.ConditionTrue, "peapod://j", yes, true), pod.Unknown, pod.Success, pod.Unknown},
		"starting":          {told(v1.ConditionFalse, "peapod://i", no, false), pod.Unknown, pod.Success, pod.Unknown},
		"started, no more":  {told(v1.ConditionFalse, "peapod://i", yes, false), pod.Success, pod.Success, pod.Unknown},
		"pod not ready":     {told(v1.ConditionFalse, "peapod://i", yes, true), pod.Success, pod.Success, pod.Unknown},
		"container unready": {told(v1.ConditionTrue, "peapod://i", nil, false), pod.Unknown, pod.Success, pod.Unknown},
	} {
		p := &v1.Pod{Status: c.status}
		if s, l, r := known(p, "i", startup), known(p, "i", liveness), known(p, "i", readiness); s != c.startup || l != c.liveness || r != c.readiness {
			t.Errorf("%s: startup %v, liveness %v, readiness %v", name, s, l, r)
		}
	}
}

// TestKnownIsAskedAnew: a container that was ready stays so until its own probe fails as often as it may, and is not asked again
// whether it has started.
func TestKnownIsAskedAnew(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/startup" {
			t.Error("it was asked again whether it has started")
		}
		asked.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	tg, port := target0(t, server.URL)
	get := func(path string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: port}}, PeriodSeconds: 1, FailureThreshold: 2, SuccessThreshold: 1}
	}
	c := &v1.Container{Name: "c", StartupProbe: get("/startup"), ReadinessProbe: get("/ready")}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Status: told(v1.ConditionTrue, "peapod://i", new(true), true)}
	pr := New(Config{Checker: &Checker{}, Record: func(*v1.Pod, string, string, string, string) {}})
	// What is known is known before anything runs.
	pr.Sync(p, tg.podIP, []pod.Instance{{Container: c, ID: "i", StartedAt: time.Now().Add(-time.Hour)}}, false)
	if r := pr.Results("u")["i"]; r.Startup != pod.Success || r.Readiness != pod.Success {
		t.Fatalf("results %+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	woken := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() { defer close(done); pr.Run(ctx, func(types.UID) { woken <- struct{}{} }) }()
	select {
	case <-woken:
	case <-ctx.Done():
		t.Fatal("no result changed")
	}
	if r := pr.Results("u")["i"]; r.Startup != pod.Success || r.Readiness != pod.Failed || asked.Load() != 2 {
		t.Errorf("results %+v after %d answers", r, asked.Load())
	}
	cancel()
	<-done
}
