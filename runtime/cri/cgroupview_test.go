package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupMounts are the options of the mounts at or below /sys/fs/cgroup of a container, by mount point. Each hierarchy must be that of the
// container's own cgroup.
func cgroupMounts(t *testing.T, mountinfo, id string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 6 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			continue
		}
		kind := strings.Fields(after)[0]
		if strings.HasPrefix(kind, "cgroup") && !cgroups.IsCgroup2UnifiedMode() && filepath.Base(fields[3]) != id {
			t.Errorf("%s shows cgroup %s, not the container's own", fields[4], fields[3])
		}
		if len(fields) > 6 && strings.HasPrefix(fields[6], "shared") {
			t.Errorf("%s is shared: %s", fields[4], line)
		}
		options := strings.Split(fields[5], ",")
		slices.Sort(options)
		found[fields[4]] = kind + " " + strings.Join(options, ",")
	}
	return found
}

// TestCgroupView: a container sees its own cgroup in each hierarchy of the machine, read-only unless it is privileged, and whichever way
// the supervisor takes to mount them.
func TestCgroupView(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("view"))
	const program = "env; echo that is all; exec sleep 1000"
	privileged := shell("privileged", program)
	privileged.Linux.SecurityContext.Privileged = true
	beneath := shell("beneath", program)
	own := t.TempDir()
	if err := os.WriteFile(filepath.Join(own, "file"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !cgroups.IsCgroup2UnifiedMode() { // else there is no room for it
		beneath.Mounts = append(beneath.Mounts, &runtimeapi.Mount{HostPath: own, ContainerPath: "/sys/fs/cgroup/own"})
	}
	for _, c := range []struct {
		config *runtimeapi.ContainerConfig
		access string
	}{{shell("plain", program), "ro"}, {privileged, "rw"}, {beneath, "ro"}} {
		t.Run(c.config.Metadata.Name, func(t *testing.T) {
			id := n.start(pod, c.config)
			found := cgroupMounts(t, n.exec(id, "cat", "/proc/self/mountinfo"), id)
			want := map[string]string{}
			if cgroups.IsCgroup2UnifiedMode() {
				want["/sys/fs/cgroup"] = "cgroup2 nodev,noexec,nosuid,relatime," + c.access
			} else {
				mounts, err := cgroups.GetCgroupMounts(false)
				if err != nil {
					t.Fatal(err)
				}
				want["/sys/fs/cgroup"] = "tmpfs nodev,noexec,nosuid,relatime,rw"
				for _, m := range mounts {
					want["/sys/fs/cgroup/"+filepath.Base(m.Mountpoint)] = "cgroup nodev,noexec,nosuid,relatime," + c.access
				}
			}
			if _, ok := found["/sys/fs/cgroup/own"]; ok != (len(c.config.Mounts) > 0) {
				t.Errorf("the container's own mount is there: %v", ok)
			}
			delete(found, "/sys/fs/cgroup/own")
			for at, options := range want {
				if found[at] != options {
					t.Errorf("%s is %q, want %q", at, found[at], options)
				}
				delete(found, at)
			}
			if len(found) > 0 {
				t.Errorf("mounted besides: %v", found)
			}
			// What the supervisor tells the process that becomes the container stays with that.
			n.waitLog(id, "that is all")
			if env := n.log(n.status(id)) + n.exec(id, "env"); strings.Contains(env, "GOMAXPROCS") || strings.Count(env, "PATH=") != 2 {
				t.Errorf("the environment of the program and of another in its container is %q", env)
			}
		})
	}
}
