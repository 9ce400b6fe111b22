package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestConfinement runs attacks in a container with the default confinement. Each prints what it got; want is what a safe runtime leaves.
func TestConfinement(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("confined"))
	for _, attack := range []struct{ name, script, want string }{
		{"mount", "mount -t tmpfs x /mnt 2>/dev/null && echo mounted", ""},
		{"unshare", "unshare -m true 2>/dev/null && echo unshared", ""},
		{"kcore", "head -c 16 /proc/kcore | wc -c", "0\n"},
		{"sysctl", "echo x > /proc/sys/kernel/domainname 2>/dev/null && echo written", ""},
		{"sysrq", "echo h > /proc/sysrq-trigger 2>/dev/null && echo written", ""},
		{"sysfs", "mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/unified/x && echo made", ""},
		{"disk", "for d in /dev/vd? /dev/sd? /dev/nvme*; do [ -e $d ] && echo $d; done", ""},
		{"node", "mknod /tmp/m b 254 0 2>/dev/null && head -c 1 /tmp/m 2>/dev/null | wc -c", "0\n"},
		{"kmsg", "dmesg 2>/dev/null | wc -c", "0\n"},
		{"hostname", "hostname evil 2>/dev/null && echo renamed", ""},
		{"proc root", "ls /proc/1/root/.. | grep -c work", "0\n"},
		{"descriptors", "ls -l /proc/self/fd /proc/1/fd | grep -v -e pipe: -e /dev/null -e '/proc/.*/fd' | grep -e '->'", ""},
		{"capabilities", "grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb\n"},
		{"seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"},
	} {
		t.Run(attack.name, func(t *testing.T) {
			config := shell(strings.ReplaceAll(attack.name, " ", "-"), "exec 2>/dev/null; "+attack.script)
			if out, _ := n.output(pod, config); out != attack.want {
				t.Errorf("got %q, want %q", out, attack.want)
			}
		})
	}
}

func TestReadOnlyRootAndPrivileges(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("ro"))
	config := shell("ro", "touch /x 2>/dev/null && echo root; touch /etc/resolv.conf 2>/dev/null && echo resolv; touch /dev/shm/y && echo shm; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status")
	security := config.Linux.SecurityContext
	security.ReadonlyRootfs, security.NoNewPrivs = true, true
	security.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	if out, _ := n.output(pod, config); out != "shm\nNoNewPrivs:\t1\nCapEff:\t0000000000000400\n" {
		t.Errorf("got %q", out)
	}
	config = shell("privileged", "mount -t tmpfs x /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted; ls /dev | grep -c kmsg; grep Seccomp: /proc/self/status")
	config.Linux.SecurityContext.Privileged = true
	if out, _ := n.output(pod, config); out != "mounted\n1\nSeccomp:\t0\n" {
		t.Errorf("privileged: got %q", out)
	}
}

// TestSharedFilesAreBounded: what containers write to the files that the sandbox gives them is the Pod's own, and fills nothing of the
// machine's; also where the Pod has the machine's IPC namespace and with it no /dev/shm of its own.
func TestSharedFilesAreBounded(t *testing.T) {
	n := newNode(t)
	host := n.sandboxConfig("host-ipc")
	host.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
	for _, sandbox := range []*runtimeapi.PodSandboxConfig{n.sandboxConfig("own-ipc"), host} {
		pod := n.run(sandbox)
		script := "for f in hostname resolv.conf; do dd if=/dev/zero of=/etc/$f bs=1M count=100 2>&1 | grep -c 'No space left'; done; " +
			"stat -c '%s' /etc/hostname /etc/resolv.conf | awk '{s+=$1} END {print s < 65 * 1024 * 1024}'"
		config := shell("writer", script)
		if out, _ := n.output(pod, config); out != "1\n1\n1\n" {
			t.Errorf("%s: got %q", sandbox.Metadata.Name, out)
		}
	}
}

// TestHostileImage: an image's links lead nowhere outside of its root.
func TestHostileImage(t *testing.T) {
	n := newNode(t)
	secret := filepath.Join(n.dir, "secret")
	if err := os.WriteFile(secret, []byte("spy:x:4242:4242::/:/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(n.dir, "images", "busybox")
	pod := n.run(n.sandboxConfig("hostile"))
	relink := func(name, target string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(image, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(image, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("passwd", func(t *testing.T) {
		for i, target := range []string{secret, "../../../../../../../.." + secret, "/proc/self/root" + secret} {
			relink("etc/passwd", target)
			config := shell("passwd", "id -u")
			config.Metadata.Attempt = uint32(i)
			config.Linux.SecurityContext.RunAsUsername = "spy"
			if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), "no matching entries") {
				t.Errorf("link to %s: %v", target, err)
			}
		}
		if err := os.Remove(filepath.Join(image, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(filepath.Join(image, "etc/passwd"), 0o644); err != nil {
			t.Fatal(err)
		}
		config := shell("fifo", "")
		config.Command = []string{"/bin/echo", "0"}        // a shell would open the pipe itself
		if out, _ := n.output(pod, config); out != "0\n" { // and starting it does not hang
			t.Errorf("got %q", out)
		}
	})
	t.Run("mount over link", func(t *testing.T) {
		victim := filepath.Join(n.dir, "victim")
		if err := os.Mkdir(victim, 0o755); err != nil {
			t.Fatal(err)
		}
		relink("data", victim)
		config := shell("mounted", "touch /data/inside; ls /data")
		source := filepath.Join(n.dir, "source")
		config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: source}}
		if out, _ := n.output(pod, config); out != "inside\n" {
			t.Errorf("got %q", out)
		}
		if left, err := os.ReadDir(victim); err != nil || len(left) != 0 {
			t.Errorf("victim has %v %v", left, err)
		}
		if _, err := os.Stat(filepath.Join(source, "inside")); err != nil {
			t.Error(err)
		}
	})
	t.Run("working directory", func(t *testing.T) {
		relink("cwd", "/proc/self/fd/7/../../../../../..")
		config := shell("cwd", "pwd; ls")
		config.WorkingDir = "/cwd"
		id := n.create(pod, config)
		if err := n.service.StartContainer(n.ctx, id); err == nil {
			if out := n.log(n.wait(id)); strings.Contains(out, "work") || strings.Contains(out, "boot") {
				t.Errorf("out of its root: %s", out)
			}
		}
	})
}

func TestMounts(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("mounts"))
	source := filepath.Join(n.dir, "volume")
	if err := os.MkdirAll(filepath.Join(source, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	config := shell("ro", "cat /data/file; touch /data/x 2>/dev/null && echo written; touch /data/sub/x && echo sub")
	config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/data/sub", HostPath: filepath.Join(source, "sub")}, {ContainerPath: "/data", HostPath: source, Readonly: true},
	}
	if out, _ := n.output(pod, config); out != "content\nsub\n" {
		t.Errorf("got %q", out)
	}
	config = shell("image", "ls /img/etc; touch /img/x 2>/dev/null && echo written; ls /sub")
	config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/img", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "busybox"}},
		{ContainerPath: "/sub", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "busybox"}, ImageSubPath: "etc"},
	}
	if out, _ := n.output(pod, config); out != "group\npasswd\ngroup\npasswd\n" {
		t.Errorf("got %q", out)
	}
	t.Run("recursive read-only", func(t *testing.T) {
		inner := filepath.Join(source, "sub")
		if err := unix.Mount(inner, inner, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(inner, unix.MNT_DETACH)
		config := shell("rro", "touch /data/sub/y 2>/dev/null && echo written")
		config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: source, Readonly: true, RecursiveReadOnly: true}}
		if out, _ := n.output(pod, config); out != "" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("propagation", func(t *testing.T) {
		if err := unix.Mount(source, source, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(source, unix.MNT_DETACH)
		if err := unix.Mount("", source, "", unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		config := shell("both", "mount -t tmpfs t /data/sub && touch /data/sub/inside && echo mounted")
		config.Linux.SecurityContext.Privileged = true
		config.Mounts = []*runtimeapi.Mount{{
			ContainerPath: "/data", HostPath: source, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL,
		}}
		if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), "it is not a shared mount") {
			t.Errorf("error is %v", err)
		}
		if err := unix.Mount("", source, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(filepath.Join(source, "sub"), unix.MNT_DETACH)
		if out, _ := n.output(pod, config); out != "mounted\n" {
			t.Errorf("got %q", out)
		}
		if _, err := os.Stat(filepath.Join(source, "sub", "inside")); err != nil {
			t.Errorf("the container's mount did not come out: %v", err)
		}
	})
}

func TestSandboxNamespaces(t *testing.T) {
	n := newNode(t)
	config := n.sandboxConfig("ns")
	config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.tcp_syncookies": "2"}
	pod := n.run(config)
	one := n.start(pod, shell("one", "echo shared > /dev/shm/file; exec sleep 1000"))
	if got := n.exec(one, "cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/tcp_syncookies", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "1\n2\n0\n" {
		t.Errorf("sysctls are %q", got)
	}
	if out, _ := n.output(pod, shell("two", "cat /dev/shm/file; for i in net ipc uts; do readlink /proc/self/ns/$i; done")); out != "shared\n"+n.exec(one, "sh", "-c", "for i in net ipc uts; do readlink /proc/self/ns/$i; done") {
		t.Errorf("got %q", out)
	}
	for _, name := range []string{"kernel.panic", "net/../kernel/panic", "vm.swappiness"} {
		bad := n.sandboxConfig("bad")
		bad.Linux.Sysctls = map[string]string{name: "1"}
		if _, err := n.service.RunPodSandbox(n.ctx, bad, ""); err == nil {
			t.Errorf("sysctl %s was accepted", name)
		}
	}
	host := n.sandboxConfig("host")
	options := host.Linux.SecurityContext.NamespaceOptions
	options.Network, options.Ipc = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE
	member := shell("host", "for i in net ipc uts pid; do readlink /proc/self/ns/$i; done")
	member.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
	var want strings.Builder
	for _, kind := range []string{"net", "ipc", "uts", "pid"} {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		want.WriteString(link + "\n")
	}
	if out, _ := n.output(n.run(host), member); out != want.String() {
		t.Errorf("on the machine's namespaces: %q, want %q", out, want.String())
	}
	n.restart()
	if st, err := n.service.PodSandboxStatus(n.ctx, pod, true); err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("status %v %v", st, err)
	}
}

// TestSeccompProfileIsBounded: a profile that is too large is refused for that, not cut off.
func TestSeccompProfileIsBounded(t *testing.T) {
	s := &Service{cfg: Config{SeccompProfileRoot: t.TempDir()}}
	for name, body := range map[string]string{
		"large": `{"defaultAction":"SCMP_ACT_ALLOW"}` + strings.Repeat(" ", maxSeccomp), "fits": `{"defaultAction":"SCMP_ACT_ALLOW"}` + strings.Repeat(" ", maxSeccomp/2),
	} {
		if err := os.WriteFile(filepath.Join(s.cfg.SeccompProfileRoot, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.readSeccomp("large"); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("the large one: %v", err)
	}
	if _, err := s.readSeccomp("fits"); err != nil {
		t.Errorf("the other: %v", err)
	}
}
