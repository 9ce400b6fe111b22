package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/snapshot"
	"github.com/peapod/peapod/runtime/supervisor"
)

var (
	podinit  *supervisor.Program
	podinit2 *supervisor.Program // another build, for upgrades
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Println("the tests of the container runtime need root")
			return 1
		}
		dir, err := os.MkdirTemp("", "podinit")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "podinit")
		build := exec.Command("go", "build", "-tags", "seccomp netgo osusergo runc_nocriu",
			"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", path, "github.com/peapod/peapod/cmd/podinit")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Printf("build podinit: %v\n%s", err, out)
			return 1
		}
		body, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		podinit, podinit2 = supervisor.NewProgram(body), supervisor.NewProgram(append(bytes.Clone(body), "newer"...))
		return m.Run()
	}())
}

// node is a runtime with everything real but the image store and the network.
type node struct {
	t        testing.TB
	dir      string
	ctx      context.Context
	client   *supervisor.Client
	images   *directoryImages
	network  *testNetwork
	service  *Service
	instance string
	logs     string
}

var instances struct {
	sync.Mutex
	n int
}

// newNode opens a runtime in directories of its own. At the end of the test everything is taken down and looked over for what is left.
func newNode(t testing.TB) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	// As the daemon's: the root of a user namespace passes through.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	instances.Lock()
	instances.n++
	instance := fmt.Sprintf("critest-%d-%d", os.Getpid(), instances.n)
	instances.Unlock()
	_, ctx := ktesting.NewTestContext(t)
	n := &node{t: t, dir: dir, ctx: ctx, instance: instance, logs: filepath.Join(dir, "logs")}
	n.client = supervisor.New(supervisor.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Cgroup: "/" + instance + "/supervisor", Program: podinit,
	})
	n.images = newDirectoryImages(t, filepath.Join(dir, "images"))
	n.network = &testNetwork{live: map[string]bool{}}
	n.open()
	t.Cleanup(n.takeDown)
	return n
}

func (n *node) config() Config {
	return Config{
		DataDir: filepath.Join(n.dir, "data"), RunDir: filepath.Join(n.dir, "run"), CgroupParent: "/" + n.instance + "/pods",
		Supervisor: n.client, Pause: podinit, Images: n.images, Snapshots: n.images, Network: n.network,
		SeccompProfileRoot: filepath.Join(n.dir, "seccomp"),
		CDISpecDirs:        []string{filepath.Join(n.dir, "cdi-static"), filepath.Join(n.dir, "cdi-dynamic")},
	}
}

// open starts the Service, or another one after the last was shut down, as a restart of the process would.
func (n *node) open() {
	n.t.Helper()
	service, err := New(n.config())
	if err != nil {
		n.t.Fatal(err)
	}
	n.service = service
	if err := service.Open(klog.NewContext(n.ctx, klog.Background())); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) close() {
	n.t.Helper()
	if err := n.service.Close(n.ctx); err != nil {
		n.t.Error(err)
	}
}

func (n *node) restart() {
	n.t.Helper()
	n.close()
	n.open()
}

func (n *node) takeDown() {
	if n.t.Failed() {
		if text, err := os.ReadFile(filepath.Join(n.dir, "state", "supervisor.log")); err == nil && len(text) > 0 {
			n.t.Logf("the supervisor says:\n%s", text)
		}
	}
	ctx := context.Background()
	for _, sb := range n.service.allSandboxes() {
		if err := n.service.RemovePodSandbox(ctx, sb.id); err != nil {
			n.t.Errorf("remove sandbox: %v", err)
		}
	}
	n.close()
	if err := n.client.Shutdown(ctx); err != nil {
		n.t.Errorf("shut supervisor down: %v", err)
	}
	n.checkNothingLeft()
	for _, group := range []string{"/pods", "/supervisor", ""} {
		if err := removeCgroup("/" + n.instance + group); err != nil {
			n.t.Error(err)
		}
	}
	os.RemoveAll(n.dir)
}

func (n *node) checkNothingLeft() {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, n.dir+"/") {
			n.t.Errorf("a mount is left: %s", line)
		}
	}
	for _, dir := range []string{n.service.sandboxFile(""), n.service.containerFile(""), n.service.sandboxRun(""), n.service.containerRun("")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			n.t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
	keys, err := n.images.List(context.Background())
	if err != nil || len(keys) > 0 {
		n.t.Errorf("snapshots are left: %v %v", keys, err)
	}
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	for id, live := range n.network.live {
		if live {
			n.t.Errorf("network of sandbox %s is left", id)
		}
	}
	for _, g := range n.cgroups("*") {
		n.t.Errorf("a cgroup is left: %s", g)
	}
}

// cgroups are the directories of cgroups that a pattern below that of all Pods matches, in each hierarchy of the machine: of cgroup v1 there
// are several, below that of v2 there is none.
func (n *node) cgroups(pattern string) (found []string) {
	n.t.Helper()
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		list, err := filepath.Glob(filepath.Join(hierarchy, n.instance, "pods", pattern))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, path := range list {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				found = append(found, path)
			}
		}
	}
	return found
}

// directoryImages is an image store of one image, a directory with a static busybox, whose snapshots are overlay mounts.
type directoryImages struct {
	internalapi.ImageManagerService // the CRI half is not under test
	dir                             string
	config                          ocispec.ImageConfig
}

func newDirectoryImages(t testing.TB, dir string) *directoryImages {
	t.Helper()
	root := filepath.Join(dir, "busybox")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root", "home"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "snapshots"), 0o755); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("package busybox-static is needed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), body, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nweb:x:1001:\nlog:x:2000:web\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &directoryImages{dir: dir, config: ocispec.ImageConfig{Cmd: []string{"/bin/sh"}, Env: []string{"FROM=image", "PATH=/bin"}}}
}

func (d *directoryImages) Resolve(_ context.Context, name string) (*image.Image, error) {
	if name != "busybox" && name != "sha256:busybox" {
		return nil, errors.New("image not found")
	}
	return &image.Image{ID: "sha256:busybox", ChainID: "busybox", Config: d.config}, nil
}

func (d *directoryImages) Prepare(_ context.Context, id, chain string, owner snapshot.Owner) ([]snapshot.Mount, error) {
	base := filepath.Join(d.dir, "snapshots", id)
	for _, sub := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(base, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if owner != nil {
		uid, gid, err := owner(0, 0)
		if err != nil {
			return nil, err
		}
		if err := os.Chown(filepath.Join(base, "upper"), int(uid), int(gid)); err != nil {
			return nil, err
		}
	}
	return []snapshot.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(d.dir, chain), "upperdir=" + filepath.Join(base, "upper"), "workdir=" + filepath.Join(base, "work"),
	}}}, nil
}

func (d *directoryImages) View(_ context.Context, id, chain string) ([]snapshot.Mount, error) {
	if err := os.MkdirAll(filepath.Join(d.dir, "snapshots", id), 0o755); err != nil {
		return nil, err
	}
	return []snapshot.Mount{{Type: "bind", Source: filepath.Join(d.dir, chain), Options: []string{"rbind", "ro"}}}, nil
}

func (d *directoryImages) Remove(_ context.Context, id string) error {
	return os.RemoveAll(filepath.Join(d.dir, "snapshots", id))
}

func (d *directoryImages) Usage(_ context.Context, id string) (snapshot.Usage, error) {
	_, err := os.Stat(filepath.Join(d.dir, "snapshots", id))
	return snapshot.Usage{Bytes: 1, Inodes: 1}, err
}

func (d *directoryImages) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, "snapshots"))
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys, err
}

// testNetwork brings up loopback in the sandbox's namespace, and keeps count.
type testNetwork struct {
	mu   sync.Mutex
	live map[string]bool
}

func (n *testNetwork) Setup(_ context.Context, id, path string, _ []*runtimeapi.PortMapping) ([]netip.Addr, error) {
	n.mu.Lock()
	n.live[id] = true
	n.mu.Unlock()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return testAddresses, h.LinkSetUp(lo)
}

var testAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}

func (n *testNetwork) Addresses(id string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.live[id] {
		return nil
	}
	return testAddresses
}

func (n *testNetwork) Teardown(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.live[id] = false
	return nil
}

// Shorthands.

func (n *node) sandboxConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"}, Hostname: name,
		LogDirectory: filepath.Join(n.logs, name), Labels: map[string]string{"app": name},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"test.svc"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

func (n *node) run(config *runtimeapi.PodSandboxConfig) string {
	n.t.Helper()
	id, err := n.service.RunPodSandbox(n.ctx, config, "")
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func shell(name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "busybox"},
		Command: []string{"/bin/sh", "-c", script}, LogPath: name + "/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:      []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
				ReadonlyPaths:    []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}

func (n *node) create(sandbox string, config *runtimeapi.ContainerConfig) string {
	n.t.Helper()
	id, err := n.service.CreateContainer(n.ctx, sandbox, config, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) start(sandbox string, config *runtimeapi.ContainerConfig) string {
	n.t.Helper()
	id := n.create(sandbox, config)
	if err := n.service.StartContainer(n.ctx, id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	resp, err := n.service.ContainerStatus(n.ctx, id, false)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.Status
}

// wait waits for a container's end.
func (n *node) wait(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	c, err := n.service.container(id)
	if err != nil {
		n.t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		n.t.Fatalf("container %s does not end", id)
	}
	return n.status(id)
}

// output runs a container to its end and returns what it wrote.
func (n *node) output(sandbox string, config *runtimeapi.ContainerConfig) (string, *runtimeapi.ContainerStatus) {
	n.t.Helper()
	st := n.wait(n.start(sandbox, config))
	return n.log(st), st
}

// log returns a container's log without times and tags.
func (n *node) log(st *runtimeapi.ContainerStatus) string {
	n.t.Helper()
	body, err := os.ReadFile(st.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	var out strings.Builder
	for _, line := range strings.SplitAfter(string(body), "\n") {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			content := f[3]
			if f[2] == "P" {
				content = strings.TrimSuffix(content, "\n")
			}
			out.WriteString(content)
		}
	}
	return out.String()
}

// exec runs a command in a container and returns its output.
func (n *node) exec(id string, args ...string) string {
	n.t.Helper()
	out, errOut, err := n.service.ExecSync(n.ctx, id, args, time.Minute)
	if err != nil {
		n.t.Fatalf("exec %q: %v %s", args, err, errOut)
	}
	return string(out)
}
