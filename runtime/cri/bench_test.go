package cri

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// BenchmarkPod is one Pod of one container from nothing to running; its removal is not counted.
func BenchmarkPod(b *testing.B) {
	n := newNode(b)
	for i := range b.N {
		pod := n.run(n.sandboxConfig(fmt.Sprint("pod", i)))
		n.start(pod, shell("main", "exec sleep 1000"))
		b.StopTimer()
		if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPodOfUsers is BenchmarkPod with a user namespace.
func BenchmarkPodOfUsers(b *testing.B) {
	n := newNode(b)
	for i := range b.N {
		pod := n.run(n.mapped(fmt.Sprint("pod", i)))
		n.start(pod, inside(shell("main", "exec sleep 1000")))
		b.StopTimer()
		if err := n.service.RemovePodSandbox(n.ctx, pod); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkProbeUsers is what it takes to learn whether the machine has user namespaces, once each start.
func BenchmarkProbeUsers(b *testing.B) {
	n := newNode(b)
	for b.Loop() {
		if err := n.service.probeUsers(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPods is 100 Pods at once, and what the supervisor then holds in memory for them.
func BenchmarkPods(b *testing.B) {
	n := newNode(b)
	for range b.N {
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				pod, err := n.service.RunPodSandbox(n.ctx, n.sandboxConfig(fmt.Sprint("pod", i)), "")
				if err != nil {
					b.Error(err)
					return
				}
				id, err := n.service.CreateContainer(n.ctx, pod, shell("main", "exec sleep 1000"), nil)
				if err == nil {
					err = n.service.StartContainer(n.ctx, id)
				}
				if err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
		b.StopTimer()
		hello, err := n.client.Hello(n.ctx)
		if err != nil {
			b.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", hello.Pid))
		if err != nil {
			b.Fatal(err)
		}
		for _, line := range strings.Split(string(status), "\n") {
			if f := strings.Fields(line); len(f) == 3 && (f[0] == "RssAnon:" || f[0] == "VmRSS:") {
				var kib float64
				fmt.Sscan(f[1], &kib)
				b.ReportMetric(kib/1024, strings.TrimSuffix(f[0], ":")+"-MiB")
			}
		}
		for _, sb := range n.service.allSandboxes() {
			if err := n.service.RemovePodSandbox(n.ctx, sb.id); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
}
