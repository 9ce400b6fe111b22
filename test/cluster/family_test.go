package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// bothServices are of both IP families, of IPv6 alone, and without a cluster IP.
const bothServices = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"both"},"spec":{"type":"NodePort","ipFamilyPolicy":"RequireDualStack","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"six"},"spec":{"ipFamilies":["IPv6"],"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"each"},"spec":{"clusterIP":"None","ipFamilies":["IPv6","IPv4"],"ipFamilyPolicy":"PreferDualStack","selector":{"app":"web"},"ports":[{"port":8080}]}}]}`

// TestTwoFamilies: where Pods and Services have IPv4 and IPv6 addresses, they are reached by both, on any node.
func TestTwoFamilies(t *testing.T) {
	t.Parallel()
	twoFamilies(t, func(four, six string) []string { return []string{four, six} })
}

// TestIPv6First: so they are where IPv6 is the main family, which Services have that ask for none.
func TestIPv6First(t *testing.T) {
	t.Parallel()
	twoFamilies(t, func(four, six string) []string { return []string{six, four} })
}

// twoFamilies is given which of two things, one of IPv4 and one of IPv6, comes first.
func twoFamilies(t *testing.T, order func(four, six string) []string) {
	archives, err := cluster.MakeArchives(t.Context())
	must(t, err)
	binary := binaryFor(t)
	wire := newWire(t)
	w := &world{T: t, server: newMachine(t, wire, binary, "one", 1), second: newMachine(t, wire, binary, "two", 2)}
	if w.server.ip6 == "" {
		t.Skip("the kernel has no IPv6")
	}
	flag := func(four, six string) string { return strings.Join(order(four, six), ",") }
	text := func(four, six string) string { return strings.Join(order(four, six), " ") }
	// The server finds its addresses itself; the agent is told.
	server := []string{"server", "--port", port, "--node-name", "one", "--cluster-cidr", flag("10.244.0.0/16", "fd00:10:244::/56"), "--service-cidr", flag("10.96.0.0/16", "fd00:10:96::/112")}
	w.server.start(server...)
	out := strings.Fields(w.server.do("token", "create"))
	at := net.JoinHostPort(order(w.server.ip, w.server.ip6)[0], port)
	if got := strings.Join(out, " "); !strings.Contains(got, "peapod agent --server https://"+at+" --token ") {
		t.Errorf("how to join is told by %q", got)
	}
	w.second.start("agent", "--server", "https://"+at, "--token", out[len(out)-1], "--node-name", "two", "--node-ip", flag(w.second.ip, w.second.ip6))
	for _, m := range w.machines() {
		m.do("image", "import", archives.File(client))
	}
	w.pod("a", "one", "")
	w.pod("b", "two", "")
	w.field("node/two", "{.spec.podCIDRs[*]}", text("10.244.1.0/24", "fd00:10:244:1::/64"))
	for _, m := range w.machines() {
		w.field("node/"+m.name, `{.status.addresses[?(@.type=="InternalIP")].address}`, text(m.ip, m.ip6))
	}
	w.field("pod/b", "{.status.hostIPs[*].ip}", text(w.second.ip, w.second.ip6))
	w.field("pod/b", "{.status.podIPs[*].ip}", text("10.244.1.2", "fd00:10:244:1::2"))
	w.field("service/kubernetes", "{.spec.clusterIPs[*]} {.spec.ipFamilies[*]}", order("10.96.0.1 IPv4", "fd00:10:96::1 IPv6")[0])
	w.field("endpointslice/kubernetes", "{.addressType} {.endpoints[*].addresses[*]}", order("IPv4 "+w.server.ip, "IPv6 "+w.server.ip6)[0])
	file := filepath.Join(t.TempDir(), "services.json")
	must(t, os.WriteFile(file, []byte(bothServices), 0o600))
	w.kubectl("apply", "-f", file)
	w.field("service/both", "{.spec.ipFamilies[*]}", text("IPv4", "IPv6"))
	w.reachBoth()
	w.server.end(unix.SIGTERM)
	w.server.start(server...)
	w.field("pod/a", "{.status.podIPs[*].ip}", text("10.244.0.2", "fd00:10:244::2"))
	w.reachBoth()
}

// field checks a field of an object.
func (w *world) field(object, path, want string) {
	w.Helper()
	if got := w.kubectl("get", object, "-o", "jsonpath="+path); got != want {
		w.Errorf("%s of %s is %q, want %q", path, object, got, want)
	}
}

// reachBoth has Pods and machines reach the Pods a and b, by their addresses of both families and by those of Services.
func (w *world) reachBoth() {
	w.Helper()
	addresses := func(object, path string) []string {
		return strings.Fields(w.kubectl("get", object, "-o", "jsonpath="+path))
	}
	for _, to := range []string{"a", "b"} {
		for _, ip := range addresses("pod/"+to, "{.status.podIPs[*].ip}") {
			at := net.JoinHostPort(ip, "8080")
			for _, from := range []string{"a", "b"} {
				w.fromPod(from, "http://"+at, greeting(to))
			}
			for _, m := range w.machines() {
				m.until("Pod "+to, func() error {
					got, err := m.get(at, 30*time.Second)
					if err == nil && !strings.Contains(got, greeting(to)) {
						err = fmt.Errorf("the answer of %s is %q", at, got)
					}
					return err
				})
			}
		}
	}
	both := addresses("service/both", "{.spec.clusterIPs[*]}")
	if len(both) != 2 {
		w.Fatalf("the addresses of a Service of two families are %q", both)
	}
	nodePort := w.kubectl("get", "service", "both", "-o", "jsonpath={.spec.ports[0].nodePort}")
	for _, m := range w.machines() {
		for _, ip := range append(both, w.kubectl("get", "service", "six", "-o", "jsonpath={.spec.clusterIP}")) {
			m.answered(net.JoinHostPort(ip, "80"), greeting("a"), greeting("b"))
		}
		for _, other := range w.machines() {
			m.answered(net.JoinHostPort(other.ip, nodePort), greeting("a"), greeting("b"))
			m.answered(net.JoinHostPort(other.ip6, nodePort), greeting("a"), greeting("b"))
		}
	}
	for _, from := range []string{"a", "b"} {
		for _, ip := range both {
			w.fromPod(from, "http://"+net.JoinHostPort(ip, "80"), "Hello from Pod")
		}
		// By name, of which there are addresses of both families.
		for _, family := range []string{"-4", "-6"} {
			w.fromPod(from, "http://both", "Hello from Pod", family)
			w.fromPod(from, "http://each:8080", "Hello from Pod", family)
		}
		w.fromPod(from, "http://six", "Hello from Pod", "-6")
	}
}

// fromPod has a Pod get a URL.
func (w *world) fromPod(pod, url, want string, flags ...string) {
	w.Helper()
	args := append([]string{"exec", pod, "-c", "client", "--", "curl", "-sSg", "-m", "60"}, append(flags, url)...)
	if got := w.kubectl(args...); !strings.Contains(got, want) {
		w.Errorf("Pod %s gets %q from %s %v, want %q", pod, got, url, flags, want)
	}
}
