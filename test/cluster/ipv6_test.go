package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// inFamily6 are objects of a cluster of IPv6 alone: Services that say nothing of families, and a Pod that is probed in all ways, shows what it
// is told of its addresses, and has a port of its node; %s is the image of a client.
const inFamily6 = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"NodePort","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"each"},"spec":{"clusterIP":"None","selector":{"app":"web"},"ports":[{"port":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"balanced"},"spec":{"type":"LoadBalancer","selector":{"app":"web"},"ports":[{"port":8099,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"local"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","selector":{"app":"web"},"ports":[{"port":8097,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"host"},"spec":{"selector":{"app":"host"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"host","labels":{"app":"host"}},"spec":{"nodeName":"two","hostNetwork":true,"terminationGracePeriodSeconds":0,
"containers":[{"name":"web","image":"peapod.local/hello:latest","env":[{"name":"POD_NAME","value":"host"}]}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"friend","labels":{"role":"friend"}},"spec":{"nodeName":"two","terminationGracePeriodSeconds":0,"containers":[
{"name":"web","image":"peapod.local/hello:latest","ports":[{"containerPort":8080,"hostPort":8098}],"startupProbe":{"tcpSocket":{"port":8080}},"livenessProbe":{"tcpSocket":{"port":8080}},"readinessProbe":{"httpGet":{"port":8080}}},
{"name":"client","image":%q,"imagePullPolicy":"IfNotPresent","command":["sleep","1000000"],"env":[
{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},{"name":"IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}},{"name":"HOST","valueFrom":{"fieldRef":{"fieldPath":"status.hostIP"}}}]}]}}]}`

// friendsOnly has Pods of app=web take connections from role=friend alone.
const friendsOnly = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"friends"},
"spec":{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"role":"friend"}}}]}]}}`

// TestIPv6Only: machines that reach each other by IPv6 alone, one of them even without 127.0.0.1, are a cluster that lacks nothing.
func TestIPv6Only(t *testing.T) {
	t.Parallel()
	archives, err := cluster.MakeArchives(t.Context())
	must(t, err)
	binary := binaryFor(t)
	wire := newWire(t)
	w := &world{T: t, server: newMachine6(t, wire, binary, "one", 1), second: newMachine6(t, wire, binary, "two", 2)}
	w.server.withoutIPv4()
	cidrs := []string{"--cluster-cidr", "fd00:1::/56", "--service-cidr", "fd00:2::/112"}
	// A node that is cut off is lost after two signs of life that do not come.
	w.flags = append([]string{"server", "--port", port, "--node-name", "one", "--node-monitor-grace-period=20s"}, cidrs...)
	w.refused(cidrs)
	w.server.start(w.flags...)
	w.join6()
	for _, m := range w.machines() {
		m.do("image", "import", archives.File(client))
	}
	w.pod("a", "one", "")
	w.pod("b", "two", "")
	w.apply(fmt.Sprintf(inFamily6, client))
	w.kubectl("wait", "--for=condition=Ready", "pod/host", "pod/friend", "--timeout=120s")
	for _, step := range []struct {
		name string
		run  func(*world)
	}{
		{"what objects say", say6},
		{"what a Pod knows", knows6},
		{"who reaches whom", reach6},
		{"names", names6},
		{"streams", streams6},
		{"a network policy", policy6},
		{"a node is cut off, and all start again", restart6},
	} {
		t.Log(step.name)
		step.run(w)
	}
}

// withoutIPv4 takes 127.0.0.1 from the machine, the last of its IPv4 addresses.
func (m *machine) withoutIPv4() {
	m.t.Helper()
	h, err := netlink.NewHandleAt(m.ns, unix.NETLINK_ROUTE)
	must(m.t, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	must(m.t, err)
	addr, err := netlink.ParseAddr("127.0.0.1/8")
	must(m.t, err)
	must(m.t, h.AddrDel(lo, addr))
}

func (w *world) apply(objects string) {
	w.Helper()
	file := filepath.Join(w.TempDir(), "objects.json")
	must(w.T, os.WriteFile(file, []byte(objects), 0o600))
	w.kubectl("apply", "-f", file)
}

// refused has the server told what cannot be, before it starts for the first time: nothing of it is kept.
func (w *world) refused(cidrs []string) {
	const remedy = "--cluster-cidr fd00:10:244::/56 --service-cidr fd00:10:96::/112"
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"this machine has no IPv4 address but loopback", "for a cluster of IPv6 alone name its networks: " + remedy}},
		{cidrs[:2], []string{`--cluster-cidr "fd00:1::/56"`, "the same IP families", remedy}},
		{append(cidrs[:3:3], "10.96.0.0/16"), []string{`--service-cidr "10.96.0.0/16"`, "the same IP families", remedy}},
		{append(cidrs[:4:4], "--node-ip", "192.0.2.1"), []string{`--node-ip "192.0.2.1"`, "Pods of this cluster are in fd00:1::/56", "name this machine's IPv6 address"}},
		{append(cidrs[:4:4], "--node-ip", "192.0.2.1,"+w.server.ip6), []string{`--node-ip "192.0.2.1,` + w.server.ip6 + `"`, "name this machine's IPv6 address"}},
		{append(cidrs[:4:4], "--bind-address", "192.0.2.1"), []string{"--bind-address 192.0.2.1", "at an IPv6 address", "leave the flag out"}},
	} {
		out, err := w.server.peapod(append([]string{"server", "--port", port}, c.args...)...)
		for _, want := range c.want {
			if err == nil || !strings.Contains(out, want) {
				w.Errorf("server %v: want %q, got %v: %s", c.args, want, err, out)
			}
		}
	}
}

// join6 has the second machine join as the first one says, by its IPv6 address; not as a node of another family.
func (w *world) join6() {
	w.Helper()
	_, after, _ := strings.Cut(w.server.do("token", "create"), "  peapod agent ")
	line, _, _ := strings.Cut(after, "\n")
	args := append([]string{"agent"}, strings.Fields(line)...)
	if len(args) != 5 || args[2] != "https://["+w.server.ip6+"]:"+port {
		w.Fatalf("how to join is told by %q", line)
	}
	args = append(args, "--node-name", "two")
	if out, err := w.second.peapod(append(args, "--node-ip", "192.0.2.2")...); err == nil || !strings.Contains(out, `--node-ip "192.0.2.2": Pods of this cluster are in fd00:1::/56`) {
		w.Errorf("an agent with an IPv4 address: %v: %s", err, out)
	}
	w.second.start(args...)
	w.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
}

func say6(w *world) {
	config, err := os.ReadFile(filepath.Join(w.server.data, "admin.kubeconfig"))
	must(w.T, err)
	if want := "server: https://[::1]:" + port; !strings.Contains(string(config), want) {
		w.Errorf("the kubeconfig lacks %q", want)
	}
	leaf, err := w.server.shown("[::1]:" + port)
	must(w.T, err)
	for _, ip := range []string{"::1", "fd00:2::1", w.server.ip6} {
		if err := leaf.VerifyHostname("[" + ip + "]"); err != nil {
			w.Error(err)
		}
	}
	w.field("node/one", "{.spec.podCIDRs[*]}", "fd00:1::/64")
	w.field("node/two", "{.spec.podCIDRs[*]}", "fd00:1:0:1::/64")
	for _, m := range w.machines() {
		w.field("node/"+m.name, `{.status.addresses[?(@.type=="InternalIP")].address}`, m.ip6)
	}
	w.field("pod/b", "{.status.podIP} {.status.podIPs[*].ip} {.status.hostIPs[*].ip}", "fd00:1:0:1::2 fd00:1:0:1::2 "+w.second.ip6)
	w.field("pod/host", "{.status.podIPs[*].ip}", w.second.ip6)
	const families = "{.spec.clusterIPs[*]} {.spec.ipFamilies[*]} {.spec.ipFamilyPolicy}"
	w.field("service/kubernetes", families, "fd00:2::1 IPv6 SingleStack")
	w.field("endpointslice/kubernetes", "{.addressType} {.endpoints[*].addresses[*]}", "IPv6 "+w.server.ip6)
	if got := w.kubectl("get", "endpoints", "kubernetes", "-o", "jsonpath={.subsets[*].addresses[*].ip}"); !strings.HasSuffix(got, "\n"+w.server.ip6) { // after a warning
		w.Errorf("the endpoints of Service kubernetes are %q", got)
	}
	w.field("service/web", "{.spec.ipFamilies[*]} {.spec.ipFamilyPolicy}", "IPv6 SingleStack")
	w.field("service/each", families, "None IPv6 SingleStack")
	for spec, want := range map[string]string{
		`"ipFamilyPolicy":"RequireDualStack"`: "this cluster is not configured for dual-stack services",
		`"ipFamilies":["IPv4"]`:               "not configured on this cluster",
		`"clusterIP":"10.96.0.9"`:             "not configured on this cluster",
	} {
		file := filepath.Join(w.TempDir(), "no.json")
		must(w.T, os.WriteFile(file, []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"no"},"spec":{`+spec+`,"ports":[{"port":80}]}}`), 0o600))
		if out, err := w.server.peapod("kubectl", "create", "-f", file); err == nil || !strings.Contains(out, want) {
			w.Errorf("a Service of %s: want %q, got %v: %s", spec, want, err, out)
		}
	}
}

func (w *world) inClient(pod string, command ...string) string {
	w.Helper()
	return strings.TrimSpace(w.kubectl(append([]string{"exec", pod, "-c", "client", "--"}, command...)...))
}

func knows6(w *world) {
	ip := w.kubectl("get", "pod", "friend", "-o", "jsonpath={.status.podIP}")
	if got, want := w.inClient("friend", "sh", "-c", "echo $IP $IPS $HOST $KUBERNETES_SERVICE_HOST $KUBERNETES_PORT"), ip+" "+ip+" "+w.second.ip6+" fd00:2::1 tcp://[fd00:2::1]:443"; got != want {
		w.Errorf("the environment says %q, want %q", got, want)
	}
	hosts := w.inClient("friend", "cat", "/etc/hosts")
	for _, want := range []string{"::1\tlocalhost ip6-localhost ip6-loopback\n", "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n", ip + "\tfriend"} {
		if !strings.Contains(hosts, want) {
			w.Errorf("/etc/hosts lacks %q: %s", want, hosts)
		}
	}
	if got := w.inClient("friend", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver fd00:2::a\n") {
		w.Errorf("/etc/resolv.conf is %q", got)
	}
	for _, url := range []string{"https://kubernetes.default.svc/version", "https://[fd00:2::1]/version", "https://[" + w.server.ip6 + "]:" + port + "/version"} {
		w.fromPod("friend", url, `"gitVersion"`, "--cacert", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
	}
}

func reach6(w *world) {
	of := func(object, path string) string { return w.kubectl("get", object, "-o", "jsonpath="+path) }
	all := []string{greeting("a"), greeting("b")}
	status := w.server.kubectlTalk("get", "service", "balanced", "--watch", "-o", `jsonpath={.status.loadBalancer.ingress[*].ip}{"\n"}`)
	status.hears(w.server.ip6 + " " + w.second.ip6)
	status.hangUp()
	nodePort := of("service/web", "{.spec.ports[0].nodePort}")
	for _, m := range w.machines() {
		for _, pod := range []string{"a", "b", "friend"} {
			m.answered(net.JoinHostPort(of("pod/"+pod, "{.status.podIP}"), "8080"), greeting(pod))
		}
		m.answered(net.JoinHostPort(of("service/web", "{.spec.clusterIP}"), "80"), all...)
		m.answered(net.JoinHostPort(of("service/host", "{.spec.clusterIP}"), "80"), greeting("host"))
		for _, other := range w.machines() {
			m.answered(net.JoinHostPort(other.ip6, nodePort), all...)
			m.answered(net.JoinHostPort(other.ip6, "8099"), all...)
		}
		m.answered(net.JoinHostPort(w.second.ip6, "8098"), greeting("friend"))
		m.answered(net.JoinHostPort(w.server.ip6, "8097"), all...)
		for _, other := range w.machines() {
			m.until("health check of "+other.name, func() error {
				got, err := m.get(net.JoinHostPort(other.ip6, of("service/local", "{.spec.healthCheckNodePort}")), patience)
				if err == nil && !strings.Contains(got, `"localEndpoints":1`) {
					err = fmt.Errorf("the answer is %q", got)
				}
				return err
			})
		}
	}
	for _, from := range []string{"a", "b", "friend"} {
		for _, to := range []string{"a", "b", "friend"} {
			w.fromPod(from, "http://"+net.JoinHostPort(of("pod/"+to, "{.status.podIP}"), "8080"), greeting(to))
		}
		for _, url := range []string{"http://web", "http://each:8080", "http://web.default.svc.cluster.local"} {
			w.fromPod(from, url, "Hello from Pod")
		}
		w.fromPod(from, "http://host", greeting("host"))
	}
}

// names6 asks the cluster's DNS on each machine for names of Services, of a Pod, and of addresses.
func names6(w *world) {
	ip := func(object, path string) string { return w.kubectl("get", object, "-o", "jsonpath="+path) }
	web, a, b := ip("service/web", "{.spec.clusterIP}"), ip("pod/a", "{.status.podIP}"), ip("pod/b", "{.status.podIP}")
	reverse := func(ip string) string {
		name, err := dns.ReverseAddr(ip)
		must(w.T, err)
		return name
	}
	both := []string{a, b}
	slices.Sort(both)
	for _, m := range w.machines() {
		for _, c := range []struct {
			name string
			kind uint16
			want []string
		}{
			{"web.default.svc.cluster.local.", dns.TypeAAAA, []string{web}},
			{"web.default.svc.cluster.local.", dns.TypeA, nil},
			{"each.default.svc.cluster.local.", dns.TypeAAAA, both},
			{reverse(web), dns.TypePTR, []string{"web.default.svc.cluster.local."}},
			{reverse("fd00:2::a"), dns.TypePTR, []string{"kube-dns.kube-system.svc.cluster.local."}},
		} {
			if got, err := m.ask("fd00:2::a", c.name, c.kind); err != nil || !slices.Equal(got, c.want) {
				w.Errorf("%s: %s of %s is %q, %v, want %q", m.name, dns.TypeToString[c.kind], c.name, got, err, c.want)
			}
		}
	}
}

func streams6(w *world) {
	for _, name := range []string{"a", "b"} {
		if got := w.kubectl("logs", name, "-c", "web"); !strings.Contains(got, greeting(name)) {
			w.Errorf("the log of %s is %q", name, got)
		}
		if got := w.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/"); strings.TrimSpace(got) != greeting(name) {
			w.Errorf("%s answers the server with %q", name, got)
		}
		forward := w.server.kubectlTalk("port-forward", "pod/"+name, "18081:8080")
		forward.hears("Forwarding from [::1]:18081 -> 8080")
		if got, err := w.server.get("[::1]:18081", patience); err != nil || got != greeting(name) {
			w.Errorf("the port of %s answers %q, %v", name, got, err)
		}
		forward.hangUp()
	}
	if got := w.kubectl("get", "--raw", "/api/v1/namespaces/default/services/web:80/proxy/"); !strings.HasPrefix(got, "Hello from Pod") {
		w.Errorf("Service web answers the server with %q", got)
	}
	if got := w.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"); !strings.Contains(got, `"name":"two"`) {
		w.Errorf("what nodes use is %q", got)
	}
}

// policy6 has a Pod on each node hear from friends alone, and then from all again.
func policy6(w *world) {
	w.apply(friendsOnly)
	url := map[string]string{}
	for _, m := range w.machines() {
		pod := map[string]string{"one": "a", "two": "b"}[m.name]
		url[pod] = "http://" + net.JoinHostPort(w.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}"), "8080")
		other := map[string]string{"a": "b", "b": "a"}[pod]
		m.until("the policy holds", func() error {
			if out, err := w.server.peapod("kubectl", "exec", other, "-c", "client", "--", "curl", "-sSgm", "2", url[pod]); err == nil {
				return fmt.Errorf("Pod %s hears from %s: %s", other, pod, out)
			}
			return nil
		})
		w.fromPod("friend", url[pod], greeting(pod))
		m.answered(strings.TrimPrefix(url[pod], "http://"), greeting(pod)) // its node may always
	}
	w.kubectl("delete", "networkpolicy", "friends")
	w.server.answeredFrom(w, "b", url["a"], greeting("a"))
	w.second.answeredFrom(w, "a", url["b"], greeting("b"))
}

// answeredFrom waits until a Pod is answered by one on the machine.
func (m *machine) answeredFrom(w *world, from, url, want string) {
	m.t.Helper()
	m.until("Pod "+from+" gets "+url, func() error {
		out, err := w.server.peapod("kubectl", "exec", from, "-c", "client", "--", "curl", "-sSgm", "10", url)
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("the answer is %q", out)
		}
		return err
	})
}

func restart6(w *world) {
	ips := func() string {
		return w.kubectl("get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.podIPs[*].ip} {.status.containerStatuses[0].containerID};{end}")
	}
	before := ips()
	w.second.cut(true)
	w.kubectl("wait", "--for=condition=Ready=Unknown", "node/two", "--timeout=120s")
	w.second.cut(false)
	w.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=120s")
	w.second.end(unix.SIGTERM)
	w.server.end(unix.SIGTERM)
	w.server.start(w.flags...)
	w.second.start("agent", "--node-name", "two")
	w.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
	if after := ips(); after != before {
		w.Errorf("the Pods were %s and are %s", before, after)
	}
	reach6(w)
}
