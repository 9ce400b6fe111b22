package cri

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNoLeaks: Pods that came and went leave no descriptor, mount, cgroup, thread or network namespace, here or in the supervisor.
func TestNoLeaks(t *testing.T) {
	n := newNode(t)
	round := func(k int) {
		var all sync.WaitGroup
		for i := range k {
			all.Go(func() {
				name := fmt.Sprintf("pod%d", i)
				pod, err := n.service.RunPodSandbox(n.ctx, n.sandboxConfig(name), "")
				if err != nil {
					t.Error(err)
					return
				}
				config := shell("main", "exec sleep 1000")
				config.Tty = i%2 == 0
				id, err := n.service.CreateContainer(n.ctx, pod, config, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := n.service.StartContainer(n.ctx, id); err != nil {
					t.Error(err)
				}
				if _, _, err := n.service.ExecSync(n.ctx, id, []string{"true"}, 0); err != nil {
					t.Error(err)
				}
				if len(n.cgroups(pod+"/"+id)) == 0 {
					t.Errorf("%s has no cgroup where those that are left are looked for", name)
				}
				if _, err := n.service.ListPodSandboxStats(n.ctx, &runtimeapi.PodSandboxStatsFilter{}); err != nil {
					t.Error(err)
				}
				if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	hello, err := n.client.Hello(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	round(8) // what is opened once stays open
	before := [2]int{descriptors(t, os.Getpid()), descriptors(t, hello.Pid)}
	round(8)
	// Some are closed by the garbage collector, which the supervisor runs once it is idle.
	var after [2]int
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		after = [2]int{descriptors(t, os.Getpid()), descriptors(t, hello.Pid)}
		if after[0] <= before[0] && after[1] <= before[1] {
			break
		}
	}
	if after[0] > before[0] || after[1] > before[1] {
		t.Errorf("descriptors here and in the supervisor: before %v, after %v", before, after)
	}
	n.checkNothingLeft()
	n.expectNoContainers()
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, e := range entries {
		// Sockets come and go with the calls.
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && !strings.HasPrefix(target, "socket:") {
			count++
		}
	}
	return count
}
