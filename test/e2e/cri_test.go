package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// criNode is `peapod runtime` and clients of its socket, which is all that a kubelet of another make, crictl and critest have.
type criNode struct {
	internalapi.RuntimeService
	t      *testing.T
	ctx    context.Context
	images internalapi.ImageManagerService
	count  int
}

func newCRINode(t *testing.T) *criNode {
	t.Helper()
	c, err := cluster.New(cluster.Config{Prepare: shared.registry.Mirror})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { uninstall(t, c) })
	log, err := c.Log.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := c.Command("runtime")
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := server.Wait(); err != nil {
			t.Errorf("peapod runtime: %v", err)
		}
	})
	line := follow(t, c.Log.File)
	for !strings.Contains(line(), "serving CRI on unix://"+c.Instance.Socket()) {
	}
	appears(t, filepath.Dir(c.Instance.Socket()), func(name string) bool { return name == filepath.Base(c.Instance.Socket()) })
	n := &criNode{t: t, ctx: klog.NewContext(t.Context(), klog.Logger{})} // The client logs refusals, which are asked for.
	// The last argument asks for lists as streams, as the newest kubelets do.
	if n.RuntimeService, err = remote.NewRemoteRuntimeService(n.ctx, "unix://"+c.Instance.Socket(), patience, nil, true); err != nil {
		t.Fatal(err)
	}
	if n.images, err = remote.NewRemoteImageService(n.ctx, "unix://"+c.Instance.Socket(), patience, nil, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.RuntimeService.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *criNode) pull(image string) string {
	n.t.Helper()
	id, err := n.images.PullImage(n.ctx, &runtimeapi.ImageSpec{Image: image}, nil, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

// image is what is known of an image, nil if nothing.
func (n *criNode) image(name string) *runtimeapi.Image {
	n.t.Helper()
	status, err := n.images.ImageStatus(n.ctx, &runtimeapi.ImageSpec{Image: name}, false)
	if err != nil {
		n.t.Fatal(err)
	}
	return status.Image
}

// sandbox runs one that says no more than it must, but for edit. It is removed with the test.
func (n *criNode) sandbox(edit func(*runtimeapi.PodSandboxConfig)) (string, *runtimeapi.PodSandboxConfig) {
	n.t.Helper()
	n.count++
	name := fmt.Sprintf("pod-%d", n.count)
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "cri", Uid: name + "-uid"},
		Linux:    &runtimeapi.LinuxPodSandboxConfig{},
	}
	if edit != nil {
		edit(config)
	}
	id, err := n.RunPodSandbox(n.ctx, config, "")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		for range 2 { // Both can be repeated.
			if err := n.StopPodSandbox(context.Background(), id); err != nil {
				n.t.Error(err)
			}
		}
		for range 2 {
			if err := n.RemovePodSandbox(context.Background(), id); err != nil {
				n.t.Error(err)
			}
		}
	})
	return id, config
}

// container is a busybox that waits, but for edit.
func container(edit func(*runtimeapi.ContainerConfig)) *runtimeapi.ContainerConfig {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "busybox"}, Command: []string{"sleep", "1000000"},
		Linux: &runtimeapi.LinuxContainerConfig{},
	}
	if edit != nil {
		edit(c)
	}
	return c
}

// run starts a container.
func (n *criNode) run(sandbox string, of *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) string {
	n.t.Helper()
	id, err := n.CreateContainer(n.ctx, sandbox, c, of)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.StartContainer(n.ctx, id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

// secure is a container with a security context.
func secure(sc *runtimeapi.LinuxContainerSecurityContext) *runtimeapi.ContainerConfig {
	return container(func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = sc })
}

// do runs a shell command in a container, and returns all that it wrote.
func (n *criNode) do(id, command string) (string, error) {
	n.t.Helper()
	out, errs, err := n.ExecSync(n.ctx, id, []string{"sh", "-c", command}, patience)
	return string(out) + string(errs), err
}

func TestCRIImages(t *testing.T) {
	t.Parallel()
	n := newCRINode(t)
	ctx := n.ctx
	short, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	if _, err := n.images.PullImage(short, &runtimeapi.ImageSpec{Image: "busybox"}, nil, nil); err == nil {
		t.Error("a pull without time succeeds")
	}
	id := n.pull("busybox")
	status := n.image("busybox")
	equal(t, "ID", status.Id, id)
	equal(t, "tags", fmt.Sprint(status.RepoTags), "[docker.io/library/busybox:latest]")
	equal(t, "number of digests", len(status.RepoDigests), 1)
	for _, name := range append([]string{id, "docker.io/library/busybox"}, status.RepoDigests...) {
		if got := n.image(name); got == nil || got.Id != id {
			t.Errorf("status of %s is %v", name, got)
		}
	}
	if list, err := n.images.ListImages(ctx, &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "busybox"}}); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	var removals sync.WaitGroup
	for range 5 {
		removals.Go(func() {
			if err := n.images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: id}); err != nil {
				t.Error(err)
			}
			if got := n.image(id); got != nil {
				t.Errorf("after its removal there is %v", got)
			}
		})
	}
	removals.Wait()
	// By its digest alone it has no tag.
	equal(t, "ID by digest", n.pull(status.RepoDigests[0]), id)
	digested := n.image(status.RepoDigests[0])
	equal(t, "tags by digest", fmt.Sprint(digested.RepoTags), "[]")
	equal(t, "digests", fmt.Sprint(digested.RepoDigests), fmt.Sprint(status.RepoDigests))
	equal(t, "ID of another name", n.pull(shared.registry.Host+"/library/busybox"), id)
	if err := n.images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: strings.Repeat("0", 64)}); err != nil {
		t.Errorf("removal of nothing: %v", err)
	}
}

func TestCRIContainers(t *testing.T) {
	t.Parallel()
	n := newCRINode(t)
	ctx := n.ctx
	id := n.pull("busybox")
	sandbox, of := n.sandbox(func(c *runtimeapi.PodSandboxConfig) {
		c.Hostname = "named"
		c.Labels = map[string]string{"app": "cri"}
		c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.10.10.10"}, Searches: []string{"example.org"}, Options: []string{"ndots:8"}}
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100"}
	})
	main := n.run(sandbox, of, container(func(c *runtimeapi.ContainerConfig) {
		c.Image = &runtimeapi.ImageSpec{Image: id, UserSpecifiedImage: "busybox"}
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "busybox"}}}
	}))
	for command, want := range map[string]string{
		"hostname":                               "named\n",
		"cat /etc/resolv.conf":                   "search example.org\nnameserver 10.10.10.10\noptions ndots:8\n",
		"cat /proc/sys/kernel/shm_rmid_forced":   "1\n",
		"cat /proc/sys/fs/mqueue/msg_max":        "100\n",
		"/image/bin/busybox echo from the image": "from the image\n",
	} {
		if got, err := n.do(main, command); err != nil || got != want {
			t.Errorf("%s: %q, %v", command, got, err)
		}
	}
	if got, err := n.do(main, "touch /image/x"); err == nil {
		t.Errorf("an image was written to: %s", got)
	}
	status, err := n.ContainerStatus(ctx, main, false)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "image ID", status.Status.ImageId, id)
	equal(t, "image of the volume", status.Status.Mounts[0].Image.ImageRef, id)
	containers, err := n.ListContainers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: sandbox})
	if err != nil || len(containers) != 1 || containers[0].ImageId != id {
		t.Errorf("containers %v, %v", containers, err)
	}
	for labels, want := range map[string]int{"cri": 1, "other": 0} {
		list, err := n.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": labels}})
		if err != nil || len(list) != want {
			t.Errorf("sandboxes of %s: %v, %v", labels, list, err)
		}
	}
	n.refuses(sandbox, of)
	n.measures(sandbox, main)
}

// refuses asks for what a runtime must not give.
func (n *criNode) refuses(sandbox string, of *runtimeapi.PodSandboxConfig) {
	n.t.Helper()
	mount := func(m *runtimeapi.Mount) *runtimeapi.ContainerConfig {
		return container(func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} })
	}
	image := &runtimeapi.ImageSpec{Image: "busybox"}
	for what, c := range map[string]*runtimeapi.ContainerConfig{
		"a group without a user": secure(&runtimeapi.LinuxContainerSecurityContext{RunAsGroup: &runtimeapi.Int64Value{Value: 1002}}),
		"a writable image":       mount(&runtimeapi.Mount{ContainerPath: "/image", Image: image}),
		"a part not in an image": mount(&runtimeapi.Mount{ContainerPath: "/image", Readonly: true, Image: image, ImageSubPath: "no/such"}),
		"a recursive mount that propagates": mount(&runtimeapi.Mount{ContainerPath: "/mnt", HostPath: "/tmp", Readonly: true,
			RecursiveReadOnly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}),
	} {
		c.Metadata.Name = "refused"
		if _, err := n.CreateContainer(n.ctx, sandbox, c, of); err == nil {
			n.t.Errorf("%s was not refused", what)
		}
	}
}

// measures looks for a Pod and its container in statistics and metrics.
func (n *criNode) measures(sandbox, container string) {
	n.t.Helper()
	ctx := n.ctx
	stats, err := n.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{Id: container})
	if err != nil || len(stats) != 1 || stats[0].Cpu.Timestamp == 0 || stats[0].Memory.WorkingSetBytes.GetValue() == 0 || stats[0].WritableLayer == nil {
		n.t.Errorf("statistics of the container: %v, %v", stats, err)
	}
	pods, err := n.ListPodSandboxStats(ctx, &runtimeapi.PodSandboxStatsFilter{Id: sandbox})
	if err != nil || len(pods) != 1 || pods[0].Linux.Network.GetDefaultInterface().GetName() != "eth0" {
		n.t.Errorf("statistics of the Pod: %v, %v", pods, err)
	}
	descriptors, err := n.ListMetricDescriptors(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descriptors {
		keys[d.Name] = d.LabelKeys
	}
	metrics, err := n.ListPodSandboxMetrics(ctx)
	if err != nil || len(metrics) != 1 || metrics[0].PodSandboxId != sandbox || len(metrics[0].ContainerMetrics) != 1 {
		n.t.Fatalf("metrics: %v, %v", metrics, err)
	}
	seen := map[string]bool{}
	for _, m := range append(slices.Clone(metrics[0].Metrics), metrics[0].ContainerMetrics[0].Metrics...) {
		seen[m.Name] = true
		equal(n.t, "number of labels of "+m.Name, len(m.LabelValues), len(keys[m.Name]))
		contains(n.t, "labels of "+m.Name, strings.Join(m.LabelValues, " "), "cri pod-1")
	}
	for name := range keys {
		if !seen[name] {
			n.t.Errorf("no value of %s", name)
		}
	}
}

func TestCRISecurity(t *testing.T) {
	t.Parallel()
	n := newCRINode(t)
	n.pull("busybox")
	profile := write(t, "profile.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}`)
	sandbox, of := n.sandbox(nil)
	// What a request leaves out confines nothing.
	for i, test := range []struct {
		what, command, want string
		fails               bool
		sc                  *runtimeapi.LinuxContainerSecurityContext
	}{
		{"nothing asked", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n", false, nil},
		{"default seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n", false, &runtimeapi.LinuxContainerSecurityContext{Seccomp: &runtimeapi.SecurityProfile{}}},
		{"a profile of the machine", "chmod 400 /", "Operation not permitted", true, &runtimeapi.LinuxContainerSecurityContext{
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}}},
		{"user and group", "echo $(id -u):$(id -g)", "1001:1002\n", false, &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: &runtimeapi.Int64Value{Value: 1001}, RunAsGroup: &runtimeapi.Int64Value{Value: 1002}}},
		{"user by name", "id -nu", "nobody\n", false, &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "nobody"}},
		{"groups", "id -G", "0 1234 5678\n", false, &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: []int64{1234, 5678}}},
		{"a masked path", "wc -c < /etc/passwd", "0\n", false, &runtimeapi.LinuxContainerSecurityContext{MaskedPaths: []string{"/etc/passwd"}}},
		{"a read-only path", "touch /tmp/x", "Read-only file system", true, &runtimeapi.LinuxContainerSecurityContext{ReadonlyPaths: []string{"/tmp"}}},
		{"no capability", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n", false, &runtimeapi.LinuxContainerSecurityContext{
			Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}}},
	} {
		c := secure(test.sc)
		c.Metadata.Name = fmt.Sprintf("c%d", i)
		got, err := n.do(n.run(sandbox, of, c), test.command)
		if (err != nil) != test.fails || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, %v", test.what, got, err)
		}
	}
	for what, o := range map[string]*runtimeapi.UserNamespace{
		"two mappings": {Uids: []*runtimeapi.IDMapping{{HostId: 1000, Length: 1000}, {HostId: 2000, Length: 1000}}},
		"no root":      {Uids: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 1000, Length: 1000}}},
		"container":    {Mode: runtimeapi.NamespaceMode_CONTAINER},
		"target":       {Mode: runtimeapi.NamespaceMode_TARGET},
	} {
		o.Gids = o.Uids
		config := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "userns", Uid: what},
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: o}}}}
		if id, err := n.RunPodSandbox(n.ctx, config, ""); err == nil {
			t.Errorf("user namespace with %s: sandbox %s runs", what, id)
		}
	}
}

func TestCRINetwork(t *testing.T) {
	t.Parallel()
	n := newCRINode(t)
	n.pull("nginx:1.20.2")
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	sandbox, of := n.sandbox(func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: int32(port)}}
	})
	n.run(sandbox, of, container(func(c *runtimeapi.ContainerConfig) { c.Image.Image, c.Command = "nginx:1.20.2", nil }))
	status, err := n.PodSandboxStatus(n.ctx, sandbox, false)
	if err != nil {
		t.Fatal(err)
	}
	address := status.Status.Network.Ip
	for what, at := range map[string]string{
		"Pod": address + ":80", "host port": fmt.Sprintf("127.0.0.1:%d", port), "forwarded": n.forward(sandbox, 80),
	} {
		if err := awaitPage(t, at); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// In the machine's network, what is forwarded is the machine's.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	onHost, _ := n.sandbox(func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}
	})
	if err := awaitPage(t, n.forward(onHost, l.Addr().(*net.TCPAddr).Port)); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("forward on the machine's network: %v", err)
	}
}

// forward forwards a port of a sandbox as crictl does, and returns the address where.
func (n *criNode) forward(sandbox string, port int) string {
	n.t.Helper()
	response, err := n.PortForward(n.ctx, &runtimeapi.PortForwardRequest{PodSandboxId: sandbox})
	if err != nil {
		n.t.Fatal(err)
	}
	u, err := url.Parse(response.Url)
	if err != nil {
		n.t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
	if err != nil {
		n.t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	var out bytes.Buffer
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf(":%d", port)}, stop, ready, &out, os.Stderr)
	if err != nil {
		n.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	n.t.Cleanup(func() {
		close(stop)
		<-ended
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		n.t.Fatalf("forward: %v", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// awaitPage gets a page from a server that may have only just started.
func awaitPage(t *testing.T, address string) error {
	t.Helper()
	ctx := within(t, patience)
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return err
		}
		r.Close = true
		response, err := http.DefaultClient.Do(r)
		if err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", response.Status)
		}
		return nil
	}
}
