package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func podWith(uid string, requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: v1.PodSpec{
		Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}},
	}}
}

func list(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

// openTree makes a tree of real cgroups, of the test's own. It goes with the test.
func openTree(t *testing.T) (*Tree, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := fmt.Sprintf("/kubelet-cgroup-%s-%d", t.Name(), os.Getpid())
	tree, err := New(root, 2000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveAll(context.Background(), root); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Open(); err != nil {
		t.Fatal(err)
	}
	return tree, root
}

// TestTree makes and removes real cgroups of all three classes.
func TestTree(t *testing.T) {
	tree, root := openTree(t)
	pods := map[string]*v1.Pod{
		"kubepods/pod-g":            pod64(),
		"kubepods/burstable/pod-b":  podWith("-b", list("250m", "32Mi"), nil),
		"kubepods/besteffort/pod-e": podWith("-e", nil, nil),
	}
	for path, p := range pods {
		for range 2 { // twice: idempotent
			if err := tree.Ensure(p); err != nil {
				t.Fatal(err)
			}
		}
		if got := tree.PodPath(p); got != root+"/"+path {
			t.Errorf("path %s, want %s", got, path)
		}
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		for file, want := range map[string]string{
			"memory" + root + "/kubepods/pod-g/memory.limit_in_bytes":   "67108864",
			"cpu" + root + "/kubepods/pod-g/cpu.shares":                 "512",
			"cpu" + root + "/kubepods/pod-g/cpu.cfs_quota_us":           "50000",
			"cpu" + root + "/kubepods/burstable/cpu.shares":             "256",
			"cpu" + root + "/kubepods/burstable/pod-b/cpu.shares":       "256",
			"cpu" + root + "/kubepods/burstable/pod-b/cpu.cfs_quota_us": "-1",
			"cpu" + root + "/kubepods/besteffort/cpu.shares":            "2",
			"cpu" + root + "/kubepods/cpu.shares":                       "2048",
		} {
			data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", file))
			if err != nil || strings.TrimSpace(string(data)) != want {
				t.Errorf("%s = %q, %v; want %s", file, data, err, want)
			}
		}
	}
	if have, err := tree.Pods(); err != nil || len(have) != 3 {
		t.Errorf("pods %v, %v", have, err)
	}
	checkWiden(t, tree, root)
	for _, p := range pods {
		for range 2 {
			if err := tree.Remove(t.Context(), p.UID); err != nil {
				t.Error(err)
			}
		}
	}
	if have, err := tree.Pods(); err != nil || len(have) != 0 {
		t.Errorf("after removal: pods %v, %v", have, err)
	}
}

// checkWiden takes a Guaranteed Pod, which has a cgroup, from one size to another.
func checkWiden(t *testing.T, tree *Tree, root string) {
	t.Helper()
	from, to := pod64(), podWith("-g", list("250m", "128Mi"), list("250m", "128Mi"))
	steps := []struct {
		do                    func() error
		quota, shares, memory string
	}{
		{func() error { return tree.Widen(from, to) }, "50000", "512", "134217728"},
		{func() error { return tree.Ensure(to) }, "25000", "256", "134217728"},
		{func() error { return tree.Widen(to, from) }, "50000", "512", "134217728"},
		{func() error { return tree.Ensure(from) }, "50000", "512", "67108864"},
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if cgroups.IsCgroup2UnifiedMode() {
			continue
		}
		for file, want := range map[string]string{"cpu/cpu.cfs_quota_us": s.quota, "cpu/cpu.shares": s.shares, "memory/memory.limit_in_bytes": s.memory} {
			controller, name, _ := strings.Cut(file, "/")
			data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, root, "kubepods/pod-g", name))
			if err != nil || strings.TrimSpace(string(data)) != want {
				t.Errorf("step %d: %s = %q, %v; want %s", i, file, data, err, want)
			}
		}
	}
	if got := tree.MemoryLimit(to); got != 128<<20 {
		t.Errorf("memory limit %d", got)
	}
	if used, err := tree.Memory(to); err != nil || used != 0 {
		t.Errorf("an empty cgroup uses %d bytes, %v", used, err)
	}
}

func pod64() *v1.Pod { return podWith("-g", list("500m", "64Mi"), list("500m", "64Mi")) }

func TestRootMustBeBelow(t *testing.T) {
	for _, bad := range []string{"", "/", "x", "/a/../b"} {
		if _, err := New(bad, 1); err == nil {
			t.Errorf("root %q was taken", bad)
		}
	}
}

// TestRemoveKillsWhatIsLeft: a process that nobody knows of any more does not keep a Pod's cgroup.
func TestRemoveKillsWhatIsLeft(t *testing.T) {
	tree, root := openTree(t)
	p := pod64()
	if err := tree.Ensure(p); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "1000000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	mounts, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		dir := filepath.Join(m, root, "kubepods/pod-g/container")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(m, "/cpuset") {
			continue // it wants processors first
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Remove(t.Context(), p.UID); err != nil {
		t.Error(err)
	}
	if err := left.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
}
