package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/kernelversion"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
)

// firstID is where the range of the sandboxes here begins on the machine.
const firstID = 10 * 65536

// haveUserNamespaces says whether the kernel is new enough for user namespaces of Pods: it must map the IDs of tmpfs.
func haveUserNamespaces(t *testing.T) bool {
	t.Helper()
	enough, err := kernelversion.GreaterEqualThan(kernelversion.KernelVersion{Kernel: 6, Major: 3})
	if err != nil {
		t.Fatal(err)
	}
	return enough
}

func needUserNamespaces(t *testing.T) {
	t.Helper()
	if !haveUserNamespaces(t) {
		t.Skip("user namespaces of Pods need Linux 6.3")
	}
}

func userNamespace() *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: firstID, ContainerId: 0, Length: 65536}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// mapped asks for a user namespace.
func (n *node) mapped(name string) *runtimeapi.PodSandboxConfig {
	config := n.sandboxConfig(name)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespace()
	return config
}

// inside asks for a container in the sandbox of mapped, with mounts as the kubelet asks for them.
func inside(config *runtimeapi.ContainerConfig, mounts ...*runtimeapi.Mount) *runtimeapi.ContainerConfig {
	users := userNamespace()
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	for _, m := range mounts {
		m.UidMappings, m.GidMappings = users.Uids, users.Gids
	}
	config.Mounts = append(config.Mounts, mounts...)
	return config
}

// TestUserNamespace: root in the container is nobody on the machine, and all that a container has is as without a user namespace.
func TestUserNamespace(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	status, err := n.service.Status(n.ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range status.RuntimeHandlers {
		if !h.Features.UserNamespaces {
			t.Fatalf("handler %q has no user namespaces: %s", h.Name, status.Info["userNamespaces"])
		}
	}
	pod := n.run(n.mapped("mapped"))
	volume := filepath.Join(n.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "theirs"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(volume, "theirs"), 1000, 2000); err != nil {
		t.Fatal(err)
	}
	script := `cat /proc/self/uid_map | tr -s ' '; id -u; stat -c '%u:%g %n' / /bin/busybox /etc/hosts /etc/resolv.conf /dev/shm /vol /vol/theirs
echo x > /vol/mine; echo x > /made; stat -c '%u:%g %n' /made; chown 7:8 /made; stat -c '%u:%g %n' /made; echo on stdout > /dev/stdout; echo -n > /dev/stderr && echo on stderr
hostname renamed; mount | grep -c -e ' /proc ' -e ' /sys ' -e ' /dev/mqueue ' -e ' /dev/pts '; ls -l /dev/null | cut -c1`
	config := inside(shell("main", script), &runtimeapi.Mount{ContainerPath: "/vol", HostPath: volume})
	config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	want := fmt.Sprintf(` 0 %d 65536
0
0:0 /
0:0 /bin/busybox
0:0 /etc/hosts
0:0 /etc/resolv.conf
0:0 /dev/shm
0:0 /vol
1000:2000 /vol/theirs
0:0 /made
7:8 /made
on stdout
on stderr
4
c
`, firstID)
	id := n.start(pod, config)
	st := n.wait(id)
	if got := n.log(st); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// In a volume IDs are the Pod's; in the container's own layer they are the machine's, and never root's.
	expectOwner(t, filepath.Join(volume, "mine"), 0)
	expectOwner(t, filepath.Join(n.dir, "images", "snapshots", id, "upper", "made"), firstID+7)
	expectOwner(t, filepath.Join(n.dir, "images", "snapshots", id, "upper"), firstID)
	// The image is as it was.
	expectOwner(t, filepath.Join(n.dir, "images", "busybox", "bin", "busybox"), 0)
}

func expectOwner(t *testing.T, path string, uid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Error(err)
	} else if st.Uid != uid {
		t.Errorf("%s belongs to %d on the machine, want %d", path, st.Uid, uid)
	}
}

// TestUserNamespaceAttacks: with all the power that a container can ask for, its root gets nothing of the machine.
func TestUserNamespaceAttacks(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	pod := n.run(n.mapped("attacker"))
	secret := filepath.Join(n.dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, attack := range []struct{ name, script, want string }{
		// Not mapped, so that nothing but the machine's own idea of the user decides.
		{"root's file", "cat /plain", ""},
		{"root's file to write", "echo x > /plain && echo written", ""},
		{"node", "mknod /disk b 254 0 && echo made; mknod /mem c 1 1 && echo made", ""},
		{"node in volume", "mknod /dev/shm/null c 1 3 && echo made", ""},
		{"disk", "for d in /dev/vda /dev/sda /dev/nvme0n1; do [ -b $d ] && head -c 1 $d | wc -c; done", ""},
		// What is written is what was there: should an attack work, it does no harm.
		{"sysctl", "f=/proc/sys/kernel/core_pattern; was=$(cat $f); echo \"$was\" > $f && echo written", ""},
		{"sysrq", "echo h > /proc/sysrq-trigger && echo written", ""},
		{"kcore", "head -c 16 /proc/kcore | wc -c", "0\n"},
		{"uevent", "for f in /sys/kernel/uevent_helper /sys/fs/cgroup/*/release_agent; do [ -e $f ] && was=$(cat $f) && echo \"$was\" > $f && echo $f; done", ""},
		{"cgroup", "mkdir /sys/fs/cgroup/memory/evil /sys/fs/cgroup/pids/evil && echo made", ""},
		{"module", "insmod /bin/busybox && echo loaded", ""},
		{"raise priority", "nice -n -20 true && echo raised", ""},
		{"leave", "nsenter -t 1 -m true && echo entered; chroot /proc/1/root/.. ls / | grep -c work", "entered\n0\n"},
		{"map root", "unshare -U sh -c 'echo 0 0 1 > /proc/self/uid_map' && echo mapped", ""},
		{"set-user-ID program", "cp /bin/busybox /vol2/su; chmod 4755 /vol2/su; stat -c %u /vol2/su", "0\n"},
	} {
		t.Run(attack.name, func(t *testing.T) {
			config := inside(shell(strings.NewReplacer(" ", "-", "'", "").Replace(attack.name), "exec 2>/dev/null; "+attack.script),
				&runtimeapi.Mount{ContainerPath: "/vol2", HostPath: filepath.Join(n.dir, "vol2")})
			config.Mounts = append(config.Mounts, &runtimeapi.Mount{ContainerPath: "/plain", HostPath: secret})
			security := config.Linux.SecurityContext
			security.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
			security.Seccomp, security.MaskedPaths, security.ReadonlyPaths = nil, nil, nil
			if out, _ := n.output(pod, config); out != attack.want {
				t.Errorf("got %q, want %q", out, attack.want)
			}
		})
	}
	if body, err := os.ReadFile(secret); err != nil || string(body) != "secret" {
		t.Errorf("the machine's file has %q, %v", body, err)
	}
	privileged := inside(shell("privileged", "exec 2>/dev/null; mount -t tmpfs x /mnt || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted; mknod /disk b 254 0 && echo made; head -c 1 /dev/vda | wc -c; cat /plain"))
	privileged.Linux.SecurityContext.Privileged = true
	privileged.Mounts = append(privileged.Mounts, &runtimeapi.Mount{ContainerPath: "/plain", HostPath: secret})
	if out, _ := n.output(pod, privileged); out != "mounted\n0\n" {
		t.Errorf("privileged: got %q", out)
	}
}

// TestUserNamespaceProcesses: exec, terminals, users, groups, a shared PID namespace and sysctls.
func TestUserNamespaceProcesses(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	config := n.mapped("processes")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.conf.all.forwarding": "1", "fs.mqueue.msg_max": "13"}
	pod := n.run(config)
	web := inside(shell("web", "exec sleep 1000"))
	security := web.Linux.SecurityContext
	security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	security.RunAsUser, security.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 1001}
	security.SupplementalGroups = []int64{4000}
	web.Tty, web.Stdin = true, true
	id := n.start(pod, web)
	if got := n.exec(id, "sh", "-c", "id -u; id -G; echo out > /dev/stdout; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/conf/all/forwarding /proc/sys/fs/mqueue/msg_max; tty >/dev/null || echo no terminal"); got != "1000\n1001 2000 4000\nout\n1\n1\n13\nno terminal\n" {
		t.Errorf("exec: got %q", got)
	}
	c, err := n.service.container(id)
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.get().Pid))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("Uid:\t%d\t", firstID+1000); !strings.Contains(string(body), want) {
		t.Errorf("on the machine the process has no %q", want)
	}
	if got := n.exec(id, "sh", "-c", "ps | grep -c '[/]pause'"); got != "1\n" {
		t.Errorf("first processes of the shared PID namespace: %q", got)
	}
	// The runtime is started anew: the sandbox and its container are taken over.
	n.restart()
	if got := n.exec(id, "id", "-u"); got != "1000\n" {
		t.Errorf("after a restart: %q", got)
	}
	other := n.start(pod, inside(shell("other", "exec sleep 1000")))
	if got := n.exec(other, "cat", "/proc/self/uid_map"); len(strings.Fields(got)) != 3 || strings.Fields(got)[1] != fmt.Sprint(firstID) {
		t.Errorf("after a restart another container has %q", got)
	}
}

// TestUserNamespaceImages: image volumes keep the owners that the image says, and recovery unmounts what a crash left of a mount.
func TestUserNamespaceImages(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	pod := n.run(n.mapped("images"))
	config := inside(shell("main", "stat -c '%u:%g %n' /img /img/bin; touch /img/x 2>/dev/null && echo written"),
		&runtimeapi.Mount{ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: "busybox"}, Readonly: true})
	if got, _ := n.output(pod, config); got != "0:0 /img\n0:0 /img/bin\n" {
		t.Errorf("got %q", got)
	}
	n.service.halt = func(step string) error {
		if step != "container rootfs" {
			return nil
		}
		for id := range n.service.containers {
			at := filepath.Join(n.service.containerRun(id), "lower-0")
			if _, err := os.Stat(n.service.rootfs(id)); err != nil {
				continue
			}
			if err := os.Mkdir(at, 0o700); err == nil { // as it is while the overlay is mounted
				if err := unix.Mount(filepath.Join(n.dir, "images", "busybox"), at, "", unix.MS_BIND, ""); err != nil {
					t.Error(err)
				}
			}
		}
		return errHalt
	}
	if _, err := n.service.CreateContainer(n.ctx, pod, inside(shell("second", "true")), nil); !isHalt(err) {
		t.Fatalf("got %v", err)
	}
	n.restart()
	if got := len(n.service.containersOf(pod)); got != 1 {
		t.Errorf("%d containers are left", got)
	}
	if err := n.service.RemovePodSandbox(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkNothingLeft()
}

func TestUserNamespaceRefused(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	for name, c := range map[string]struct {
		edit func(*runtimeapi.NamespaceOption)
		want string
	}{
		"host network": {func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE }, "cannot be combined with the machine's network namespace"},
		"host pid":     {func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE }, "cannot be combined with the machine's pid namespace"},
		"host ipc":     {func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE }, "cannot be combined with the machine's ipc namespace"},
		"no mapping":   {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids = nil }, "must map user and group 0"},
		"mode":         {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_CONTAINER }, "user namespace mode CONTAINER is not supported"},
		"node":         {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_NODE }, "takes no mappings"},
	} {
		config := n.mapped("refused")
		c.edit(config.Linux.SecurityContext.NamespaceOptions)
		if _, err := n.service.RunPodSandbox(n.ctx, config, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	pod := n.run(n.mapped("pod"))
	for name, c := range map[string]struct {
		edit func(*runtimeapi.ContainerConfig)
		want string
	}{
		"other namespace": {func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = nil }, "is not that of sandbox"},
		"user": {func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 65536}
		}, "user 65536 is not mapped in the user namespace"},
		"group": {func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.SupplementalGroups = []int64{70000} }, "group 70000 is not mapped in the user namespace"},
		"device": {func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rw"}}
		}, "keeps the path that it has on the machine"},
	} {
		config := inside(shell("c", "true"))
		c.edit(config)
		if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// A file system whose IDs cannot be mapped is no volume there.
	id := n.create(pod, inside(shell("sys", "true"), &runtimeapi.Mount{ContainerPath: "/hostsys", HostPath: "/sys/kernel"}))
	if err := n.service.StartContainer(n.ctx, id); err == nil || !strings.Contains(err.Error(), "failed to set MOUNT_ATTR_IDMAP on /sys/kernel") {
		t.Errorf("volume of sysfs: %v", err)
	}
}

// TestStrangersStayOut: users of the machine cannot reach what containers have, with or without users of their own, though root of a
// user namespace passes through the directories above.
func TestStrangersStayOut(t *testing.T) {
	n := newNode(t)
	ids := map[string]string{"plain": n.start(n.run(n.sandboxConfig("plain")), shell("main", "exec sleep 1000"))}
	if haveUserNamespaces(t) {
		ids["mapped"] = n.start(n.run(n.mapped("mapped")), inside(shell("main", "exec sleep 1000")))
	}
	for name, id := range ids {
		c, err := n.service.container(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{n.service.rootfs(id), filepath.Join(n.service.memoryPath(c.sandboxID), "shm")} {
			if _, err := os.Stat(path); err != nil {
				t.Fatal(err)
			}
			err := ownthread.Run(func() error {
				return asUser(1234, false, func() error {
					_, err := os.Stat(path)
					return err
				})
			})
			if !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s: a stranger's look at %s: %v", name, path, err)
			}
		}
	}
}
