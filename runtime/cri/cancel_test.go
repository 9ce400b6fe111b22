package cri

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDeletedBeforeStarted: a start that the supervisor reads after the delete of its container starts nothing.
func TestDeletedBeforeStarted(t *testing.T) {
	n := newNode(t)
	id := n.create(n.run(n.sandboxConfig("late")), shell("main", "sleep 1000000"))
	if err := n.client.Delete(n.ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := n.service.StartContainer(n.ctx, id); err == nil || !strings.Contains(err.Error(), "was deleted before it was started") {
		t.Errorf("the start says %v", err)
	}
	if list, err := n.client.List(n.ctx); err != nil || len(list) != 0 {
		t.Errorf("there run %v, %v", list, err)
	}
}

// TestCancelledStarts gives up starts at all moments. Each container that counts as ended has ended, and was killed: that its
// caller gave up is no failure to start.
func TestCancelledStarts(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("cancelled"))
	begun := 0
	for range 60 {
		id := n.create(pod, shell("main", "sleep 1000000"))
		ctx, cancel := context.WithTimeout(n.ctx, rand.N(40*time.Millisecond))
		err := n.service.StartContainer(ctx, id)
		cancel()
		if err == nil {
			begun++
			if err := n.service.StopContainer(n.ctx, id, 0); err != nil {
				t.Fatal(err)
			}
		} else if st := n.status(id); st.State == runtimeapi.ContainerState_CONTAINER_EXITED && (st.ExitCode != 137 || st.Reason != "Error" || st.Message != "" || st.StartedAt <= 0 || st.StartedAt > st.FinishedAt) {
			t.Errorf("a start that was given up: %+v", st)
		}
		if err := n.service.RemoveContainer(n.ctx, id); err != nil {
			t.Fatal(err)
		}
		list, err := n.client.List(n.ctx)
		if err != nil || len(list) != 0 {
			t.Fatalf("there run %v, %v", list, err)
		}
		if left := append(n.cgroups(id), n.cgroups("*/"+id)...); len(left) > 0 {
			t.Fatalf("cgroups are left: %v", left)
		}
	}
	t.Logf("%d of 60 were started before they were given up", begun)
}
