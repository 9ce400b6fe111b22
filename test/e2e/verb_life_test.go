package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A counter writes every number once, in order, so that a lost, doubled or restarted line shows.
const counter = `
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done']
`

// beyond reads a container's log until the counter has passed n, and returns the last number.
func (s *space) beyond(pod string, n int) int {
	s.t.Helper()
	st := s.start("logs", "-f", pod)
	defer st.kill()
	for want := 0; ; want++ {
		got, err := strconv.Atoi(st.until(""))
		if err != nil || got != want {
			s.t.Fatalf("line %d of the log of %s is %d (%v)", want, pod, got, err)
		}
		if got > n {
			return got
		}
	}
}

// only is the one container of a Pod.
func only(t *testing.T, p *corev1.Pod) corev1.ContainerStatus {
	t.Helper()
	if len(p.Status.ContainerStatuses) != 1 {
		t.Fatalf("Pod %s has the container statuses %+v", p.Name, p.Status.ContainerStatuses)
	}
	return p.Status.ContainerStatuses[0]
}

func (s *space) get(pod string) *corev1.Pod {
	s.t.Helper()
	p, err := s.client.CoreV1().Pods(s.name).Get(s.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// survived wants a Pod to be ready on a server that was started again, with the same instance of its container, and returns that.
func (s *space) survived(o *own, pod string, before corev1.ContainerStatus) corev1.ContainerStatus {
	s.t.Helper()
	s.client = clientOf(s.t, o.Cluster)
	s.ready(pod)
	after := only(s.t, s.get(pod))
	equal(s.t, "the container", after.ContainerID, before.ContainerID)
	equal(s.t, "its restarts", after.RestartCount, 0)
	return after
}

// Containers survive the server, and the next one takes them over: the same containers, with every line that they wrote
// meanwhile.
func TestStopKeepsPods(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(counter)
	s.ready("counter")
	before := only(t, s.get("counter"))
	s.beyond("counter", 5)

	verb(t, o.Cluster, "", "stop").want(t, "stop", 0, "stopped", "Pods keep running")
	<-o.Ended()
	verb(t, o.Cluster, "", "stop").want(t, "second stop", 0, "no server runs")
	verb(t, o.Cluster, "", "status").want(t, "status", 1, "no server runs", o.Instance.DataDir)
	verb(t, o.Cluster, "", "image", "list").want(t, "image list", 1, "no server runs", "peapod server")
	meanwhile := o.growing(100)

	o.restart()
	after := s.survived(o, "counter", before)
	if !after.State.Running.StartedAt.Equal(&before.State.Running.StartedAt) {
		t.Errorf("the container started at %v, and at %v after a restart of the server", before.State.Running, after.State.Running)
	}
	s.beyond("counter", meanwhile+20)
	s.kubectl("exec", "counter", "--", "true")

	// The same after a stop that comes as a signal, and with the Pod deleted meanwhile by nobody.
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	o.restart()
	equal(t, "the container", only(t, s.get("counter")).ContainerID, before.ContainerID)
	s.kubectl("delete", "pod", "counter")
}

// growing follows the counter's log file, while no server runs, until it has n more lines, and returns the last number.
func (o *own) growing(n int) int {
	o.t.Helper()
	files, err := filepath.Glob(filepath.Join(o.Instance.DataDir, "logs", "*_counter_*", "main", "0.log"))
	if err != nil || len(files) != 1 {
		o.t.Fatalf("log files: %v, %v", files, err)
	}
	lines := follow(o.t, files[0])
	last := 0
	for range n {
		f := strings.Fields(lines())
		if last, err = strconv.Atoi(f[len(f)-1]); err != nil {
			o.t.Fatal(err)
		}
	}
	return last
}

func TestKillEndsPodsAndKeepsWhatWasDeclared(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(counter)
	s.ready("counter")
	before := only(t, s.get("counter"))

	verb(t, o.Cluster, "", "kill").want(t, "kill with nobody to ask", 1, o.Instance.DataDir, "--yes")
	verb(t, o.Cluster, "n\n", "kill").want(t, "kill refused", 1, "kills all Pods", "nothing was changed")
	equal(t, "the container", only(t, s.get("counter")).ContainerID, before.ContainerID)
	s.beyond("counter", 5)

	verb(t, o.Cluster, "y\n", "kill").want(t, "kill", 0, "1 Pods killed", o.Instance.DataDir)
	<-o.Ended()
	o.wantNothingRunning()
	verb(t, o.Cluster, "", "kill", "--yes").want(t, "second kill", 0, "no server runs", "0 Pods killed")

	o.restart()
	s.client = clientOf(t, o.Cluster)
	s.awaitPod("counter", "started anew", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].Ready && st[0].ContainerID != before.ContainerID
	})
	s.kubectl("exec", "counter", "--", "true")
}

// wantNothingRunning fails the test if a process, a mount, an interface or a cgroup of a Pod is there.
func (o *own) wantNothingRunning() {
	o.t.Helper()
	left, err := o.Leftovers()
	if err != nil {
		o.t.Fatal(err)
	}
	for _, l := range left {
		for _, kind := range []string{"process", "interface", "mount", "nftables", "socket"} {
			if strings.HasPrefix(l, kind) {
				o.t.Errorf("left running: %s", l)
			}
		}
	}
}

func TestUninstallAsksAndIsIdempotent(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(counter)
	s.ready("counter")
	verb(t, o.Cluster, "", "uninstall").want(t, "uninstall with nobody to ask", 1, "cannot be undone", "--yes")
	verb(t, o.Cluster, "no\n", "uninstall").want(t, "uninstall refused", 1, "nothing was changed")
	s.beyond("counter", 5)
	o.killServer() // Uninstalling needs no server.
	for i, said := range []string{"removed all of ", "there was nothing of "} {
		what := fmt.Sprintf("uninstall number %d", i+1)
		verb(t, o.Cluster, "", "uninstall", "--yes").want(t, what, 0, said+o.Instance.DataDir)
		left, err := o.Leftovers()
		if err != nil || len(left) > 0 {
			t.Errorf("%s left %v (%v)", what, left, err)
		}
	}
}

// A data directory may be a disk of its own: it is emptied.
func TestUninstallEmptiesMountPoint(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	dir := c.Instance.DataDir
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("peapod-test", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := c.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, said := range []string{"removed all of ", "there was nothing of "} {
		what := fmt.Sprintf("uninstall number %d", i+1)
		verb(t, c, "", "uninstall", "--yes").want(t, what, 0, said+dir)
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s left %v (%v)", what, left, err)
		}
	}
}

// Two servers on one machine do not touch each other.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	here := newSpace(t)
	there := newOwn(t).space()
	for _, s := range []*space{here, there} {
		s.apply(counter + "---\n" + web("web", ""))
	}
	for _, s := range []*space{here, there} {
		s.ready("counter", "web")
	}
	mine, theirs := here.get("web").Status.PodIP, there.get("web").Status.PodIP
	if mine == theirs {
		t.Errorf("Pods of two clusters have the same address %s", mine)
	}
	there.curl("web", theirs)
	before := only(t, here.get("counter")).ContainerID

	verb(t, there.cluster, "", "uninstall", "--yes").want(t, "uninstall of one", 0, "removed all of")
	contains(t, "answer", here.curl("web", mine), welcome)
	equal(t, "the other's container", only(t, here.get("counter")).ContainerID, before)
	here.apply(strings.Replace(counter, "name: counter", "name: later", 1))
	here.ready("later")
	here.kubectl("exec", "later", "--", "ping", "-c", "1", "-w", "30", mine)
}

func TestImageVerbs(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	c := o.Cluster
	name := "docker.io/library/nginx:1.20.2"
	archive := shared.archives.File("nginx:1.20.2")
	verb(t, c, "", "image", "list").want(t, "list", 0, "IMAGE", "peapod.local/hello:latest")
	verb(t, c, "", "image", "import", archive).want(t, "import", 0, name)
	r := verb(t, c, "", "image", "ls")
	r.want(t, "list", 0, name)
	if line := lineWith(r.stdout, name); !strings.Contains(line, "true") {
		t.Errorf("an imported image is not pinned: %s", line)
	}
	verb(t, c, "", "image", "rm", "nginx:1.20.2").want(t, "remove", 0)
	if r := verb(t, c, "", "image", "list"); strings.Contains(r.stdout, name) {
		t.Errorf("a removed image is listed:\n%s", r.stdout)
	}
	verb(t, c, "", "image", "remove", "nginx:1.20.2").want(t, "second remove", 1, `image "nginx:1.20.2" is not on this node`)
	verb(t, c, "", "image", "pull", "nginx:1.20.2").want(t, "pull", 0, "sha256:")
	r = verb(t, c, "", "image", "list")
	r.want(t, "list", 0, name)
	if line := lineWith(r.stdout, name); !strings.Contains(line, "false") {
		t.Errorf("a pulled image is pinned: %s", line)
	}
	verb(t, c, "", "image", "pull", "no-such-image").want(t, "pull of nothing", 1, "no-such-image", "not found")
	verb(t, c, "", "image", "pull", "Bad//Name").want(t, "pull of a bad name", 1, "Bad//Name")
	verb(t, c, "this is no archive", "image", "import", "-").want(t, "import of text", 1, "import -")
	verb(t, c, "", "image", "import", "/nonexistent.tar").want(t, "import of no file", 1, "/nonexistent.tar", "no such file")
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	verb(t, c, string(b), "image", "import", "-", "--name", "copy:1").want(t, "import from standard input", 0)
	verb(t, c, string(b[:len(b)/2]), "image", "import", "-").want(t, "import of half an archive", 1)
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// `status --wait` returns when the server is ready, and says so when it is not in time.
func TestStatusWaits(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	verb(t, c, "", "status", "--wait", "50ms").want(t, "status of nothing", 1, "no server runs with data directory", "none was started in time")
	verb(t, c, "", "kubectl", "get", "pods").want(t, "kubectl of nothing", 1, "admin.kubeconfig: start the cluster with 'peapod server'")
	waited := make(chan result, 1)
	go func() { waited <- verb(t, c, "", "status", "--wait", "60s") }()
	if err := c.StartServer(context.Background()); err != nil {
		t.Fatal(err)
	}
	r := <-waited
	r.want(t, "status", 0, fmt.Sprintf("process %d", c.ServerPID()), "ready", c.Instance.Kubeconfig())
}

// nodeIP is a node's address.
func nodeIP(t *testing.T, node *corev1.Node) string {
	t.Helper()
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	t.Fatalf("node %s has no address: %+v", node.Name, node.Status.Addresses)
	return ""
}

// longest is how long a step may take, on a machine busy with other tests, before it counts as broken.
const longest = 2 * time.Minute
