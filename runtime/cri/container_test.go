package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

func TestContainerRunsToItsEnd(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("life"))
	out, st := n.output(pod, shell("one", "echo to out; echo to err >&2; hostname; cat /etc/resolv.conf; printf partial; exit 3"))
	if st.ExitCode != 3 || st.Reason != "Error" || st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("status is %v", st)
	}
	for _, want := range []string{"to out\n", "to err\n", "life\n", "search test.svc\nnameserver 192.0.2.1\noptions ndots:5\n", "partial"} {
		if !strings.Contains(out, want) {
			t.Errorf("log lacks %q: %q", want, out)
		}
	}
	if st.StartedAt == 0 || st.FinishedAt < st.StartedAt || st.CreatedAt > st.StartedAt {
		t.Errorf("times are %d %d %d", st.CreatedAt, st.StartedAt, st.FinishedAt)
	}
	if _, st := n.output(pod, shell("two", "exit 0")); st.Reason != "Completed" || st.ExitCode != 0 {
		t.Errorf("status is %v", st)
	}
}

func TestContainerStops(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("stop"))
	for _, test := range []struct {
		name, script string
		signal       runtimeapi.Signal
		timeout      int64
		code         int32
	}{
		{"term", "trap 'exit 7' TERM; echo up; while :; do sleep 100 & wait; done", 0, 60, 7},
		{"quit", "trap 'exit 8' QUIT; echo up; while :; do sleep 100 & wait; done", runtimeapi.Signal_SIGNAL_SIGQUIT, 60, 8},
		{"deaf", "trap '' TERM; echo up; while :; do sleep 100; done", 0, 1, 137},
		{"now", "trap 'exit 9' TERM; echo up; while :; do sleep 100 & wait; done", 0, 0, 137},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := shell(test.name, test.script)
			config.StopSignal = test.signal
			id := n.start(pod, config)
			n.waitLog(id, "up")
			if err := n.service.StopContainer(n.ctx, id, test.timeout); err != nil {
				t.Fatal(err)
			}
			if st := n.status(id); st.ExitCode != test.code || st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
				t.Errorf("status is %v", st)
			}
			if err := n.service.StopContainer(n.ctx, id, test.timeout); err != nil {
				t.Errorf("second stop: %v", err)
			}
		})
	}
}

// waitLog waits until a container's log contains text.
func (n *node) waitLog(id, text string) {
	n.t.Helper()
	path := n.status(id).LogPath
	w, err := fsnotify.NewWatcher()
	if err != nil {
		n.t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		n.t.Fatal(err)
	}
	late := time.After(time.Minute)
	for {
		// What was written before the watch is here, what comes after makes an event.
		if body, err := os.ReadFile(path); err == nil && strings.Contains(string(body), text) {
			return
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			n.t.Fatal(err)
		case <-late:
			n.t.Fatalf("container %s never says %q", id, text)
		}
	}
}

func TestContainerOutOfMemory(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("oom"))
	config := shell("hog", "x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo survived")
	config.Linux.Resources.MemoryLimitInBytes = 24 << 20
	out, st := n.output(pod, config)
	if st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status is %v, log %q", st, out)
	}
}

func TestContainerStartFails(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("nope"))
	config := shell("nope", "")
	config.Command = []string{"/no/such/program"}
	id := n.create(pod, config)
	err := n.service.StartContainer(n.ctx, id)
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("error is %v", err)
	}
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 128 || st.Reason != "StartError" ||
		!strings.Contains(st.Message, "/no/such/program") {
		t.Errorf("status is %v", st)
	}
	config = shell("image", "")
	config.Image.Image = "absent"
	if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil {
		t.Error("a container of an absent image was created")
	}
	config = shell("user", "")
	config.Linux.SecurityContext.RunAsUsername = "nobody-here"
	if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), "no matching entries in passwd file") {
		t.Errorf("error is %v", err)
	}
}

func TestContainerLog(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("log"))
	id := n.start(pod, shell("rotate", "trap 'echo after; exit' TERM; echo before; head -c 40000 /dev/zero | tr '\\0' x; echo; while :; do sleep 100 & wait; done"))
	n.waitLog(id, " F xxx")
	path := n.status(id).LogPath
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.service.ReopenContainerLog(n.ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := n.service.StopContainer(n.ctx, id, 60); err != nil {
		t.Fatal(err)
	}
	if got := n.log(n.status(id)); got != "after\n" {
		t.Errorf("new log is %q", got)
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	total, tags := 0, ""
	for _, line := range strings.Split(strings.TrimSpace(string(old)), "\n") {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || f[1] != "stdout" || len(f[3]) > 16384 {
			t.Fatalf("bad line %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			t.Error(err)
		}
		tags += f[2]
		total += len(f[3])
	}
	if total != len("before")+40000 || tags != "FPPF" {
		t.Errorf("old log has %d bytes, tags %s", total, tags)
	}
}

func TestContainerLogFollowsNoLink(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("link"))
	config := shell("link", "echo hello")
	dir := filepath.Join(n.logs, "link", "link")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(n.dir, "victim")
	if err := os.Symlink(victim, filepath.Join(dir, "0.log")); err != nil {
		t.Fatal(err)
	}
	id := n.create(pod, config)
	if err := n.service.StartContainer(n.ctx, id); err == nil {
		t.Error("a log was written through a link")
	}
	if _, err := os.Stat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link's target was made: %v", err)
	}
	config = shell("dots", "echo hello")
	config.LogPath = "../../victim"
	if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil {
		t.Error("a log path out of the log directory was accepted")
	}
}

func TestExecSync(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("exec"))
	config := shell("main", "echo up; exec sleep 1000")
	config.Envs = []*runtimeapi.KeyValue{{Key: "FROM", Value: []byte("pod")}}
	config.WorkingDir = "/tmp"
	id := n.start(pod, config)
	if got := n.exec(id, "sh", "-c", "echo $FROM; pwd; hostname"); got != "pod\n/tmp\nexec\n" {
		t.Errorf("got %q", got)
	}
	out, errOut, err := n.service.ExecSync(n.ctx, id, []string{"sh", "-c", "echo a; echo b >&2; exit 5"}, 0)
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 5 || string(out) != "a\n" || string(errOut) != "b\n" {
		t.Errorf("got %q %q %v", out, errOut, err)
	}
	if _, _, err := n.service.ExecSync(n.ctx, id, []string{"/absent"}, 0); err == nil || errors.As(err, &exit) {
		t.Errorf("absent program: %v", err)
	}
	if _, _, err := n.service.ExecSync(n.ctx, id, []string{"sleep", "77"}, 200*time.Millisecond); !errors.Is(err, ErrTimedOut) {
		t.Errorf("time-out: %v", err)
	}
	if got := n.exec(id, "sh", "-c", "sleep 1; pidof sleep | wc -w"); got != "1\n" { // the container's own
		t.Errorf("%s sleeps run after the time-out", strings.TrimSpace(got))
	}
	// What a command leaves behind on its pipes does not hold it up for ever.
	if got := n.exec(id, "sh", "-c", "sleep 5 & echo done"); got != "done\n" {
		t.Errorf("got %q", got)
	}
	n.service.StopContainer(n.ctx, id, 0)
	if _, _, err := n.service.ExecSync(n.ctx, id, []string{"true"}, 0); err == nil {
		t.Error("exec in a container that ended")
	}
}

func TestContainerLimits(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("limits"))
	config := shell("main", "exec sleep 1000")
	config.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500,
	}
	id := n.start(pod, config)
	limit := func(v1, v2 string) string {
		return strings.TrimSpace(n.exec(id, "sh", "-c", fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", v1, v2)))
	}
	if got := limit("memory/memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit is %s", got)
	}
	if got := limit("cpu/cpu.cfs_quota_us", "cpu.max"); got != "20000" && got != "20000 100000" {
		t.Errorf("cpu quota is %s", got)
	}
	if got := strings.TrimSpace(n.exec(id, "cat", "/proc/1/oom_score_adj")); got != "500" {
		t.Errorf("oom_score_adj is %s", got)
	}
	update := &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}}
	if err := n.service.UpdateContainerResources(n.ctx, id, update); err != nil {
		t.Fatal(err)
	}
	if got := limit("memory/memory.limit_in_bytes", "memory.max"); got != "100663296" {
		t.Errorf("memory limit after the update is %s", got)
	}
	if got := limit("cpu/cpu.cfs_quota_us", "cpu.max"); got != "20000" && got != "20000 100000" {
		t.Errorf("cpu quota after the update of memory is %s", got)
	}
	if r := n.status(id).Resources.Linux; r.MemoryLimitInBytes != 96<<20 || r.CpuQuota != 20000 {
		t.Errorf("status says %v", r)
	}
	stats, err := n.service.ContainerStats(n.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Memory.UsageBytes.Value == 0 || stats.Cpu.UsageCoreNanoSeconds.Value == 0 || stats.Memory.AvailableBytes.Value == 0 {
		t.Errorf("stats are %v", stats)
	}
	podStats, err := n.service.PodSandboxStats(n.ctx, pod)
	if err != nil || len(podStats.Linux.Containers) != 1 {
		t.Errorf("pod stats are %v %v", podStats, err)
	}
}

func TestContainerUser(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("user"))
	config := shell("id", "id; pwd; touch /etc/x 2>&1")
	config.Linux.SecurityContext.RunAsUsername = "web"
	config.Linux.SecurityContext.SupplementalGroups = []int64{3000}
	out, st := n.output(pod, config)
	if !strings.HasPrefix(out, "uid=1000(web) gid=1001(web) groups=1001(web),2000(log),3000\n") || !strings.Contains(out, "Permission denied") {
		t.Errorf("log is %q", out)
	}
	if u := st.User.Linux; u.Uid != 1000 || u.Gid != 1001 || len(u.SupplementalGroups) != 3 {
		t.Errorf("status says %v", u)
	}
}

func TestEvents(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(n.ctx)
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	ended := make(chan error, 1)
	listening := make(chan struct{})
	go func() {
		ended <- n.service.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(listening) })
	}()
	<-listening
	pod := n.run(n.sandboxConfig("events"))
	id := n.start(pod, shell("one", "exit 4"))
	n.wait(id)
	if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for range 8 {
		e := <-events
		who := "container"
		if e.ContainerId == pod {
			who = "sandbox"
		}
		got[who+" "+e.ContainerEventType.String()] = true
		if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT && who == "container" {
			if len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].ExitCode != 4 || e.PodSandboxStatus.Network.Ip != "192.0.2.7" {
				t.Errorf("event is %v", e)
			}
		}
	}
	for _, who := range []string{"sandbox", "container"} {
		for kind := range runtimeapi.ContainerEventType_value {
			if !got[who+" "+kind] {
				t.Errorf("no %s of %s", kind, who)
			}
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
