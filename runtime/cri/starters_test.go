package cri

import (
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/peapod/peapod/runtime/supervisor"
)

// TestSupervisorStartedBySeveral: a process that was killed may have left a supervisor that is still starting when the next process
// starts one. There is one supervisor in the end, and nobody fails. The eight here start at once, which is worse.
func TestSupervisorStartedBySeveral(t *testing.T) {
	n := newNode(t)
	for range 5 {
		if err := n.client.Shutdown(n.ctx); err != nil {
			t.Fatal(err)
		}
		clients := make([]*supervisor.Client, 8)
		var starting errgroup.Group
		for i := range clients {
			clients[i] = supervisor.New(supervisor.Config{
				StateDir: filepath.Join(n.dir, "state"), RunDir: filepath.Join(n.dir, "run"), Cgroup: "/" + n.instance + "/supervisor", Program: podinit,
			})
			starting.Go(func() error { return clients[i].Ensure(n.ctx) })
		}
		if err := starting.Wait(); err != nil {
			t.Fatal(err)
		}
		pids := map[int]bool{}
		for _, c := range clients {
			hello, err := c.Hello(n.ctx)
			if err != nil {
				t.Fatal(err)
			}
			pids[hello.Pid] = true
		}
		if len(pids) != 1 {
			t.Fatalf("the supervisors are %v", pids)
		}
	}
}
