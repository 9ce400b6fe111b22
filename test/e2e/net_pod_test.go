package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/test/e2e/cluster"
)

// web is a Pod of two containers: nginx, and a client with curl.
func web(name, more string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: client, image: gentledev10/ubuntu-curl, command: [sleep, '1000000']}
  - name: web
    image: nginx:1.14.2
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
    %s
---
`, name, more)
}

const welcome = "Welcome to nginx!"

// curl asks from within a Pod.
func (s *space) curl(pod, url string) string {
	s.t.Helper()
	return s.kubectl("exec", pod, "-c", "client", "--", "curl", "-sS", "--max-time", "20", url)
}

// answers fails the test unless this machine gets nginx's page at an address.
func answers(t *testing.T, address string) {
	t.Helper()
	ctx := within(t, longest)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		t.Errorf("this machine to %s: %v", address, err)
		return
	}
	defer a.Body.Close()
	equal(t, "status of "+address, a.StatusCode, http.StatusOK)
}

// Every Pod has an address that each other, and this machine, reach it by.
func TestPodNetwork(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(web("one", "") + web("two", ""))
	s.ready("one", "two")
	one, two := s.get("one").Status, s.get("two").Status
	equal(t, "number of addresses", len(one.PodIPs), 1)
	equal(t, "first address", one.PodIPs[0].IP, one.PodIP)
	if one.PodIP == two.PodIP {
		t.Errorf("two Pods have the address %s", one.PodIP)
	}
	contains(t, "Pod to Pod", s.curl("one", two.PodIP), welcome)
	contains(t, "Pod to itself", s.curl("one", one.PodIP), welcome)
	contains(t, "Pod to localhost", s.curl("one", "localhost"), welcome)
	answers(t, one.PodIP)
	s.logged("^"+regexp.QuoteMeta(one.PodIP)+" ", "two", "-c", "web") // the server says whose request it was

	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "from", r.RemoteAddr) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	host := net.JoinHostPort(one.HostIP, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	contains(t, "Pod to its node", s.curl("one", host), "from "+one.PodIP+":")

	contains(t, "names", s.kubectl("exec", "one", "-c", "client", "--", "cat", "/etc/hosts"), one.PodIP+"\tone", "127.0.0.1\tlocalhost")
	r := s.try("exec", "one", "-c", "client", "--", "curl", "-sS", "--max-time", "20", net.JoinHostPort(two.PodIP, "81"))
	contains(t, "a port that nobody listens on", r.stderr, "curl: (7) Failed to connect")
}

// A hostPort answers at every address of the node, loopback too, and only while its Pod is there.
func TestHostPort(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.apply(web("published", fmt.Sprintf("ports: [{containerPort: 80, hostPort: %d}]", port)) + web("other", ""))
	s.ready("published", "other")
	node := s.get("published").Status.HostIP
	for _, ip := range []string{node, "127.0.0.1"} {
		answers(t, net.JoinHostPort(ip, strconv.Itoa(port)))
	}
	for _, pod := range []string{"other", "published"} {
		contains(t, "from Pod "+pod, s.curl(pod, net.JoinHostPort(node, strconv.Itoa(port))), welcome)
	}
	s.apply(web("second", fmt.Sprintf("ports: [{containerPort: 80, hostPort: %d}]", port)))
	s.event("second", "FailedScheduling", "didn't have free ports for the requested pod ports")
	s.kubectl("delete", "pod", "published") // At once, by its grace period: its end on the node comes after.
	s.ready("second")                       // The port is free, so it goes to who waits for it.
	answers(t, net.JoinHostPort(node, strconv.Itoa(port)))
	s.kubectl("delete", "pod", "second", "--grace-period=1")
	for _, ip := range []string{node, "127.0.0.1"} {
		if conn, err := net.Dial("tcp", net.JoinHostPort(ip, strconv.Itoa(port))); err == nil {
			conn.Close()
			t.Errorf("the port of a Pod that has gone answers at %s", ip)
		}
	}
}

// outside is a network namespace beyond this machine's: it knows no way back to Pods, only to the machine.
type outside struct {
	name, host, address string
}

// newOutside makes one, with a link to this machine.
func newOutside(t *testing.T) outside {
	t.Helper()
	id := os.Getpid() % 10000
	o := outside{fmt.Sprintf("ppe2e%d", id), fmt.Sprintf("ppe2e%dh", id), "198.18.77.2"}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", o.name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", o.name).CombinedOutput(); err != nil {
			t.Errorf("remove namespace: %v: %s", err, out)
		}
	})
	ip("link", "add", o.host, "type", "veth", "peer", "name", "eth0", "netns", o.name)
	ip("address", "add", "198.18.77.1/30", "dev", o.host)
	ip("link", "set", o.host, "up")
	ip("-n", o.name, "address", "add", o.address+"/30", "dev", "eth0")
	ip("-n", o.name, "link", "set", "eth0", "up")
	ip("-n", o.name, "link", "set", "lo", "up")
	return o
}

// What leaves for the outside does so under the node's address.
func TestMasquerade(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	out := newOutside(t)
	clients := out.serve(t)
	s.apply(web("inside", ""))
	s.ready("inside")
	contains(t, "the answer of the outside", s.curl("inside", out.address+":8080"), "outside")
	host, _, err := net.SplitHostPort(<-clients)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the client as the outside sees it", host, "198.18.77.1")
}

// serve answers HTTP on port 8080 in the namespace, and returns the addresses of its clients.
func (o outside) serve(t *testing.T) <-chan string {
	t.Helper()
	var l net.Listener
	err := ownthread.Run(func() error {
		f, err := os.Open("/run/netns/" + o.name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		l, err = net.Listen("tcp4", o.address+":8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	clients := make(chan string, 16)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clients <- r.RemoteAddr
		fmt.Fprintln(w, "outside")
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return clients
}

// Addresses are not given out again at once, and none is lost over many Pods.
func TestAddressesAreNeitherReusedAtOnceNorLeaked(t *testing.T) {
	t.Parallel()
	const rounds, batch = 20, 10
	o := newOwn(t)
	s := o.space()
	verb(t, o.Cluster, "", "image", "pull", "busybox").want(t, "pull", 0)
	s.awaitAccount()
	s.apply(script("stays", "exec sleep 1000000", "", ""))
	s.ready("stays")
	clean := o.inventory()
	var recent []string
	for round := range rounds {
		var names []string
		for i := range batch {
			p := marked(fmt.Sprintf("pod-%d-%d", round, i))
			if _, err := o.client.CoreV1().Pods(s.name).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			names = append(names, p.Name)
		}
		var now []string
		for _, name := range names {
			p := s.awaitPod(name, "running", func(p *corev1.Pod) bool { return p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning })
			if slices.Contains(recent, p.Status.PodIP) || slices.Contains(now, p.Status.PodIP) {
				t.Errorf("address %s was given to %s while it was still warm", p.Status.PodIP, name)
			}
			now = append(now, p.Status.PodIP)
		}
		recent = append(recent, now...)
		recent = recent[max(0, len(recent)-10*batch):]
		for _, name := range names {
			if err := o.client.CoreV1().Pods(s.name).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
				t.Error(err)
			}
		}
	}
	o.wantInventory(clean)
	s.kubectl("exec", "stays", "--", "ping", "-c", "1", "-w", "20", s.get("stays").Status.HostIP)
}
