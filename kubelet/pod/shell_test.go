package pod_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	testingclock "k8s.io/utils/clock/testing"
)

func TestPodRunsAndIsDeleted(t *testing.T) {
	s := newStage(t)
	s.start()
	p := onePod("a", nil)
	s.m.Upsert(p)
	st := s.until(p, "ran", running)
	if st.PodIP == "" || st.HostIP != "192.0.2.1" || st.ContainerStatuses[0].ContainerID == "" {
		t.Errorf("status lacks addresses or IDs: %+v", st)
	}
	s.m.Upsert(deleted(p, 30))
	s.empty()
	if len(s.volumes.mounted) != 0 || len(s.groups.have) != 0 {
		t.Errorf("left behind: volumes %v, cgroups %v", s.volumes.mounted, s.groups.have)
	}
	s.gone(p)
}

// TestBriefContainer: that a container has started is told of and counted, however soon it exits.
func TestBriefContainer(t *testing.T) {
	s := newStage(t)
	s.start()
	s.rt.Brief("main")
	p := onePod("a", func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever })
	s.m.Upsert(p)
	s.until(p, "succeeded", func(st v1.PodStatus) bool { return st.Phase == v1.PodSucceeded })
	for got, timeout := "", time.After(time.Minute); got != "Normal Started Container started"; {
		select {
		case got = <-s.events.Events:
		case <-timeout:
			t.Fatal("no event Started")
		}
	}
	s.counted(`kubelet_started_containers_total{container_type="container"} 1`)
}

// TestRestartOfKubelet checks that a new manager takes over what runs, ends
// what belongs to nobody, and starts nothing twice.
func TestRestartOfKubelet(t *testing.T) {
	s := newStage(t)
	s.start()
	a, b := onePod("a", nil), onePod("b", nil)
	for _, p := range []*v1.Pod{a, b} {
		s.m.Upsert(p)
		s.until(p, "ran", running)
	}
	want, err := s.m.ContainerID(t.Context(), a.UID, "main", false)
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	before := len(s.rt.Calls())
	s.start(a) // b left the API meanwhile
	// Who asks at once what the Pod has is told when it is known.
	s.m.Upsert(a)
	if id, err := s.m.ContainerID(t.Context(), a.UID, "main", false); err != nil || id != want {
		t.Errorf("container %q, %v; want %s", id, err, want)
	}
	if id, ok := s.m.SandboxID(t.Context(), a.UID); !ok || id == "" {
		t.Error("the sandbox is not known")
	}
	s.until(a, "was taken over", running)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.rt.Wait(ctx, func() bool { return s.rt.Running()["main"] == 1 }); err != nil {
		t.Fatalf("running %v", s.rt.Running())
	}
	s.gone(b)
	for _, call := range s.rt.Calls()[before:] {
		if call == "CreateContainer main" || call == "StartContainer main" || call == "RunPodSandbox a" || call == "StopPodSandbox a" {
			t.Errorf("after the restart: %s", call)
		}
	}
}

// TestRestartOfKubeletLeavesPodsReady: what probes said of a container holds until a new manager has asked for itself.
func TestRestartOfKubeletLeavesPodsReady(t *testing.T) {
	var silent atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if silent.Load() {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	probe := &v1.Probe{
		ProbeHandler:  v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Host: at.Hostname(), Path: "/", Port: intstr.Parse(at.Port())}},
		PeriodSeconds: 3600, TimeoutSeconds: 3600, SuccessThreshold: 1, FailureThreshold: 1,
	}
	s := newStage(t)
	s.start()
	p := onePod("a", func(p *v1.Pod) {
		p.Spec.Containers[0].StartupProbe, p.Spec.Containers[0].ReadinessProbe = probe, probe
	})
	s.m.Upsert(p)
	ready := func(st v1.PodStatus) bool { return running(st) && st.ContainerStatuses[0].Ready }
	was := s.until(p, "became ready", ready)
	s.stop()
	p.Status = was
	silent.Store(true) // a container that is younger than its period is asked at once
	s.start(p)
	defer s.stop()
	s.until(p, "was taken over", running)
	if s.board.unready[p.UID] != 0 {
		t.Errorf("the restart made the pod unready %d times", s.board.unready[p.UID])
	}
}

// TestRestartOfKubeletKeepsLastWords: what a container said as it ended stays when the Pod's directory is gone.
func TestRestartOfKubeletKeepsLastWords(t *testing.T) {
	s := newStage(t)
	s.start()
	p := onePod("a", func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever })
	s.m.Upsert(p)
	s.until(p, "ran", running)
	dir := filepath.Join(s.dir, "root", "pods", string(p.UID))
	files, err := filepath.Glob(filepath.Join(dir, "containers", "main", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("message files %q, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("bye"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.rt.Exit("main", 3, "Error"); err != nil {
		t.Fatal(err)
	}
	over := func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed }
	ended := s.until(p, "failed", over)
	s.stop()
	p.Status = ended
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.start(p)
	for _, st := range []v1.PodStatus{p.Status, s.until(p, "was taken over", over)} {
		if c := st.ContainerStatuses[0].State.Terminated; c == nil || c.ExitCode != 3 || c.Message != "bye" {
			t.Errorf("state %+v", st.ContainerStatuses[0].State)
		}
	}
}

// TestExitIsSeenWithoutEvents runs on a runtime that sends none.
func TestExitIsSeenWithoutEvents(t *testing.T) {
	s := newStage(t)
	s.rt.WithoutEvents()
	s.start()
	p := onePod("a", func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever })
	s.m.Upsert(p)
	s.until(p, "ran", running)
	if err := s.rt.Exit("main", 3, "Error"); err != nil {
		t.Fatal(err)
	}
	st := s.until(p, "failed", func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed })
	if c := st.ContainerStatuses[0].State.Terminated; c == nil || c.ExitCode != 3 {
		t.Errorf("state %+v", st.ContainerStatuses[0].State)
	}
}

// TestCrashIsRestarted follows an exit by the runtime's events.
func TestCrashIsRestarted(t *testing.T) {
	s := newStage(t)
	s.start()
	p := onePod("a", nil)
	s.m.Upsert(p)
	s.until(p, "ran", running)
	if err := s.rt.Exit("main", 1, "Error"); err != nil {
		t.Fatal(err)
	}
	st := s.until(p, "restarted", func(st v1.PodStatus) bool {
		return running(st) && st.ContainerStatuses[0].RestartCount == 1
	})
	if last := st.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 1 || last.Reason != "Error" {
		t.Errorf("lastState %+v", st.ContainerStatuses[0].LastTerminationState)
	}
	if id, err := s.m.ContainerID(t.Context(), p.UID, "main", true); err != nil || id == "" {
		t.Errorf("previous instance: %q, %v", id, err)
	}
}

// TestDeletionIsImpatient shortens the grace of a container that ignores TERM.
func TestDeletionIsImpatient(t *testing.T) {
	s := newStage(t)
	s.rt.IgnoreTerm("main")
	s.start()
	p := onePod("a", nil)
	s.m.Upsert(p)
	s.until(p, "ran", running)
	s.m.Upsert(deleted(p, 3600))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	called := func(call string) func() bool {
		return func() bool {
			for _, c := range s.rt.Calls() {
				if c == call {
					return true
				}
			}
			return false
		}
	}
	if err := s.rt.Wait(ctx, called("StopContainer main 3600s")); err != nil {
		t.Fatal(s.rt.Calls())
	}
	s.m.Upsert(deleted(p, 0))
	s.empty()
	if !called("StopContainer main 2s")() {
		t.Error(s.rt.Calls())
	}
}

// TestHooks checks that postStart runs before the next container starts and
// that a container whose hook fails is restarted; preStop runs before the end.
func TestHooks(t *testing.T) {
	s := newStage(t)
	var mu sync.Mutex
	var order []string
	s.rt.OnExec("hook", func(c string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, c)
		return nil, nil
	})
	s.start()
	p := onePod("a", func(p *v1.Pod) {
		hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hook"}}}
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: hook, PreStop: hook}
		second := p.Spec.Containers[0].DeepCopy()
		second.Name, second.Lifecycle = "second", nil
		p.Spec.Containers = append(p.Spec.Containers, *second)
	})
	s.m.Upsert(p)
	s.until(p, "ran", running)
	var seen []string
	for _, c := range s.rt.Calls() {
		if c == "ExecSync main" || c == "StartContainer second" || c == "StartContainer main" {
			seen = append(seen, c)
		}
	}
	if want := "[StartContainer main ExecSync main StartContainer second]"; fmt.Sprint(seen) != want {
		t.Errorf("calls %v, want %s", seen, want)
	}
	s.m.Upsert(deleted(p, 30))
	s.empty()
	mu.Lock()
	defer mu.Unlock()
	if len(order) != 2 {
		t.Errorf("hooks ran %v, want two runs", order)
	}
}

// TestLivenessRestarts fails a container's liveness probe.
func TestLivenessRestarts(t *testing.T) {
	s := newStage(t)
	var mu sync.Mutex
	healthy := true
	s.rt.OnExec("check", func(string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if healthy {
			return []byte("fine"), nil
		}
		return []byte("sick"), exitError(1)
	})
	s.start()
	p := onePod("a", func(p *v1.Pod) {
		check := v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}}
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{ProbeHandler: check, PeriodSeconds: 1, FailureThreshold: 1}
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{ProbeHandler: check, PeriodSeconds: 1, FailureThreshold: 3}
	})
	s.m.Upsert(p)
	s.until(p, "became ready", running)
	mu.Lock()
	healthy = false
	mu.Unlock()
	s.until(p, "became unready", func(st v1.PodStatus) bool { return !running(st) && st.Phase == v1.PodRunning })
	s.until(p, "was restarted", func(st v1.PodStatus) bool { return st.ContainerStatuses[0].RestartCount > 0 })
	want := map[string]bool{
		"Warning Unhealthy Liveness probe failed: sick": false, "Warning Unhealthy Readiness probe failed: sick": false,
		"Normal Killing Container main failed liveness probe, will be restarted": false,
	}
	for len(s.events.Events) > 0 {
		e := <-s.events.Events
		if _, ok := want[e]; ok {
			want[e] = true
		}
	}
	for e, ok := range want {
		if !ok {
			t.Errorf("no event %q", e)
		}
	}
}

type exitError int

func (e exitError) Error() string   { return fmt.Sprintf("exit %d", int(e)) }
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }

// TestManyPods starts and deletes a hundred Pods at once.
func TestManyPods(t *testing.T) {
	s := newStage(t)
	s.start()
	var pods []*v1.Pod
	for i := range 100 {
		p := onePod(fmt.Sprintf("p%d", i), nil)
		pods = append(pods, p)
		s.m.Upsert(p)
	}
	for _, p := range pods {
		s.until(p, "ran", running)
	}
	for _, p := range pods {
		s.m.Upsert(deleted(p, 30))
	}
	s.empty()
	for _, p := range pods {
		s.gone(p)
		h := s.board.history[p.UID]
		if fmt.Sprint(h) != "[Pending Running Failed]" && fmt.Sprint(h) != "[Pending Running Succeeded]" {
			t.Errorf("pod %s went through %v", p.Name, h)
		}
	}
}

// TestNewImage gives a container another image: it is replaced, and the Pod is not said to be unready between. How long the status may be
// silent about that is in testdata/restarts.txt; here the clock stands still, however long the machine takes.
func TestNewImage(t *testing.T) {
	s := newStage(t)
	s.clock = testingclock.NewFakeClock(time.Now())
	s.start()
	p := onePod("a", nil)
	s.m.Upsert(p)
	before := s.until(p, "ran", running).ContainerStatuses[0]
	s.board.mu.Lock()
	s.board.unready[p.UID] = 0
	s.board.mu.Unlock()
	next := p.DeepCopy()
	next.Generation++
	next.Spec.Containers[0].Image = "img:2"
	s.m.Upsert(next)
	s.until(p, "ran the new image", func(st v1.PodStatus) bool {
		return running(st) && st.ContainerStatuses[0].ContainerID != before.ContainerID && st.ContainerStatuses[0].RestartCount == 1
	})
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	if n := s.board.unready[p.UID]; n != 0 {
		t.Errorf("said to be unready %d times", n)
	}
}
