package cri

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/supervisor"
)

func TestRestartKeepsContainers(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("keep"))
	id := n.start(pod, shell("main", "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 100 & wait; done"))
	ended := n.start(pod, shell("ended", "trap 'exit 5' TERM; echo up; while :; do sleep 100 & wait; done"))
	n.waitLog(id, "up")
	n.waitLog(ended, "up")
	pid := n.exec(id, "sh", "-c", "cut -d' ' -f22 /proc/1/stat") // its start time
	n.close()
	if err := n.client.Signal(n.ctx, ended, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.open()
	if st := n.wait(ended); st.ExitCode != 5 || st.Reason != "Error" {
		t.Errorf("container that ended meanwhile: %v", st)
	}
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("status after restart: %v", st)
	}
	if again := n.exec(id, "sh", "-c", "cut -d' ' -f22 /proc/1/stat"); again != pid {
		t.Error("the container was restarted")
	}
	sandbox, err := n.service.PodSandboxStatus(n.ctx, pod, false)
	if err != nil || sandbox.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || sandbox.Status.Network.Ip != "192.0.2.7" {
		t.Errorf("sandbox after restart: %v %v", sandbox, err)
	}
	if err := n.service.StopContainer(n.ctx, id, 60); err != nil {
		t.Fatal(err)
	}
	if st := n.status(id); st.ExitCode != 6 || n.log(st) != "up\nbye\n" {
		t.Errorf("status %v, log %q", st, n.log(st))
	}
}

// TestNetworkLost: a sandbox whose network nobody knows any more, as its journal is gone, is not shown as ready with an address that others may
// be given. One on the host's network has none to lose.
func TestNetworkLost(t *testing.T) {
	n := newNode(t)
	cfg := n.sandboxConfig("host")
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	pod, host := n.run(n.sandboxConfig("lost")), n.run(cfg)
	id := n.start(pod, shell("main", "echo up; exec sleep 1000"))
	n.close()
	n.network.live = map[string]bool{}
	n.open()
	if st := n.wait(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container of the lost sandbox is %v", st)
	}
	for sandbox, want := range map[string]runtimeapi.PodSandboxState{pod: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, host: runtimeapi.PodSandboxState_SANDBOX_READY} {
		st, err := n.service.PodSandboxStatus(n.ctx, sandbox, false)
		if err != nil || st.Status.State != want {
			t.Errorf("sandbox %s: %v, %v, want %v", sandbox, st, err, want)
		}
	}
}

// TestStopGoesOn: a process that was killed when it had begun to stop a sandbox, and its containers run yet, is followed by one that stops it.
func TestStopGoesOn(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("stopping"))
	id := n.start(pod, shell("main", "echo up; exec sleep 1000"))
	sb, err := n.service.sandbox(pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.service.changeSandbox(sb, func(e *sandboxEntry) { e.Phase = phaseStopping }); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if st := n.wait(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 {
		t.Errorf("the container is %v", st)
	}
	if e := n.service.sandboxes[pod].get(); e.Phase != phaseStopped {
		t.Errorf("the sandbox is %v", e.Phase)
	}
}

func TestSupervisorUpgrade(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("upgrade"))
	// A line is half written when the upgrade comes.
	id := n.start(pod, shell("main", "trap 'echo ond; exit 6' TERM; printf 'first\nsec'; while :; do sleep 100 & wait; done"))
	n.waitLog(id, "first")
	before, err := n.client.Hello(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		out string
		err error
	}
	execDone := make(chan result, 1)
	old := n.service
	n.exec(id, "mkfifo", "/tmp/started", "/tmp/go")
	go func() {
		out, _, err := old.ExecSync(n.ctx, id, []string{"sh", "-c", "echo > /tmp/started; read line < /tmp/go; echo survived"}, 2*time.Minute)
		execDone <- result{string(out), err}
	}()
	n.exec(id, "cat", "/tmp/started") // waits for it
	// A newer peapod starts.
	n.close()
	n.client = supervisor.New(supervisor.Config{StateDir: filepath.Join(n.dir, "state"), RunDir: filepath.Join(n.dir, "run"), Program: podinit2})
	n.open()
	after, err := n.client.Hello(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.Pid != before.Pid || after.Build == before.Build || after.Upgrades != 1 {
		t.Errorf("before %v, after %v", before, after)
	}
	n.exec(id, "sh", "-c", "echo > /tmp/go")
	if r := <-execDone; r.out != "survived\n" || r.err != nil {
		t.Errorf("exec across the upgrade: %v", r)
	}
	if err := n.service.StopContainer(n.ctx, id, 60); err != nil {
		t.Fatal(err)
	}
	if st := n.status(id); st.ExitCode != 6 || n.log(st) != "first\nsecond\n" {
		t.Errorf("status %v, log %q", st, n.log(st))
	}
	if out, st := n.output(pod, shell("new", "echo new")); out != "new\n" || st.ExitCode != 0 {
		t.Errorf("container of the new program: %q %v", out, st)
	}
}

func TestSupervisorUpgradeFails(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("upgrade"))
	id := n.start(pod, shell("main", "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 100 & wait; done"))
	n.waitLog(id, "up")
	broken := supervisor.New(supervisor.Config{
		StateDir: filepath.Join(n.dir, "state"), RunDir: filepath.Join(n.dir, "run"), Program: supervisor.NewProgram([]byte("not a program")),
	})
	if err := broken.Ensure(n.ctx); err == nil || !strings.Contains(err.Error(), "exec format error") {
		t.Fatalf("upgrade to nonsense: %v", err)
	}
	if err := n.service.StopContainer(n.ctx, id, 60); err != nil {
		t.Fatal(err)
	}
	if st := n.status(id); st.ExitCode != 6 || n.log(st) != "up\nbye\n" {
		t.Errorf("status %v, log %q", st, n.log(st))
	}
}

func TestSupervisorKilled(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("killed"))
	id := n.start(pod, shell("main", "echo up; exec sleep 1000"))
	hello, err := n.client.Hello(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(n.pid(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := unix.Kill(hello.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := n.wait(id); st.ExitCode != 255 || st.Reason != "ContainerStatusUnknown" {
		t.Errorf("status is %v", st)
	}
	if ready, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0); ready != 1 {
		t.Errorf("the orphan runs on: %v", err)
	}
	if out, _ := n.output(pod, shell("next", "echo next")); out != "next\n" {
		t.Errorf("next container says %q", out)
	}
}

func (n *node) pid(id string) int {
	c, err := n.service.container(id)
	if err != nil {
		n.t.Fatal(err)
	}
	return c.get().Pid
}

// TestCrash stops each operation dead after each of its steps, restarts, and expects that nothing is left of what was not finished and
// that the same operation then works.
func TestCrash(t *testing.T) {
	n := newNode(t)
	halt := func(step string) {
		n.service.halt = func(at string) error {
			if at == step {
				return errHalt
			}
			return nil
		}
	}
	shared := func(name string) *runtimeapi.PodSandboxConfig {
		config := n.sandboxConfig(name)
		config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return config
	}
	for _, step := range []string{"sandbox journal", "sandbox namespaces", "sandbox network", "sandbox pause"} {
		t.Run(step, func(t *testing.T) {
			halt(step)
			if _, err := n.service.RunPodSandbox(n.ctx, shared("run"), ""); !errors.Is(err, errHalt) {
				t.Fatal(err)
			}
			n.restart()
			n.checkNothingLeft()
			n.expectNoContainers()
			if err := n.service.RemovePodSandbox(n.ctx, n.run(shared("run"))); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, step := range []string{"container journal", "container snapshot", "container rootfs"} {
		t.Run(step, func(t *testing.T) {
			pod := n.run(n.sandboxConfig("create"))
			halt(step)
			if _, err := n.service.CreateContainer(n.ctx, pod, shell("c", "echo hi"), nil); !errors.Is(err, errHalt) {
				t.Fatal(err)
			}
			n.restart()
			if list, err := n.service.ListContainers(n.ctx, nil); err != nil || len(list) != 0 {
				t.Errorf("containers: %v %v", list, err)
			}
			if keys, err := n.images.List(n.ctx); err != nil || len(keys) != 0 {
				t.Errorf("snapshots: %v %v", keys, err)
			}
			if out, _ := n.output(pod, shell("c", "echo hi")); !strings.HasSuffix(out, "hi\n") { // logs are not the runtime's to remove
				t.Errorf("log is %q", out)
			}
			if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
				t.Fatal(err)
			}
			n.checkNothingLeft()
		})
	}
	t.Run("container started", func(t *testing.T) {
		pod := n.run(n.sandboxConfig("start"))
		id := n.create(pod, shell("c", "echo once; exec sleep 1000"))
		halt("container started")
		if err := n.service.StartContainer(n.ctx, id); !errors.Is(err, errHalt) {
			t.Fatal(err)
		}
		n.restart()
		if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.StartedAt == 0 {
			t.Errorf("status is %v", st)
		}
		if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
			t.Fatal(err)
		}
		n.checkNothingLeft()
	})
	for _, step := range []string{"sandbox stop containers", "sandbox teardown", "container removing", "container unmounted", "sandbox remove containers"} {
		t.Run(step, func(t *testing.T) {
			pod := n.run(shared("remove"))
			n.start(pod, shell("c", "exec sleep 1000"))
			halt(step)
			if err := n.service.RemovePodSandbox(n.ctx, pod); !errors.Is(err, errHalt) {
				t.Fatal(err)
			}
			n.restart()
			if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
				t.Fatal(err)
			}
			n.checkNothingLeft()
			n.expectNoContainers()
		})
	}
}

func (n *node) expectNoContainers() {
	n.t.Helper()
	states, err := n.client.List(n.ctx)
	if err != nil || len(states) != 0 {
		n.t.Errorf("the supervisor has %v %v", states, err)
	}
}

func TestReboot(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("reboot"))
	id := n.start(pod, shell("main", "exec sleep 1000"))
	n.close()
	// What a reboot does: processes, mounts and everything in the run directory are gone, the data is there.
	hello, err := n.client.Hello(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(hello.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n.pid(id), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{n.service.containerRun(id), n.service.sandboxRun(pod)} {
		if err := clearRun(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "run")); err != nil {
		t.Fatal(err)
	}
	n.open()
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.Reason != "ContainerStatusUnknown" {
		t.Errorf("status is %v", st)
	}
	sandbox, err := n.service.PodSandboxStatus(n.ctx, pod, false)
	if err != nil || sandbox.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox: %v %v", sandbox, err)
	}
	if n.network.live[pod] {
		t.Error("the lost sandbox's network is still set up")
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	n := newNode(t)
	config := n.sandboxConfig("shared")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	pod := n.run(config)
	member := func(name, script string) *runtimeapi.ContainerConfig {
		c := shell(name, script)
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return c
	}
	one := n.start(pod, member("one", "echo up; exec sleep 1000"))
	n.waitLog(one, "up")
	out, st := n.output(pod, member("two", "ps; sleep 555 & exit 0"))
	if !strings.Contains(out, "1 65535") || !strings.Contains(out, "/pause") || !strings.Contains(out, "sleep 1000") || st.ExitCode != 0 {
		t.Errorf("processes are %s", out)
	}
	// The rest of an ended container is killed, and reaped by the namespace's first process.
	if got := n.exec(one, "ps"); strings.Contains(got, "sleep 555") || strings.Contains(got, "[sleep]") {
		t.Errorf("left behind: %s", got)
	}
	n.restart()
	target := shell("debug", "ps")
	target.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: one}
	if out, _ := n.output(pod, target); !strings.Contains(out, "sleep 1000") {
		t.Errorf("target's processes are %s", out)
	}
}
