package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// several are two servers on one etcd, and an agent.
type several struct {
	*testing.T
	etcd                *etcd
	first, second, node *machine
}

// on is kubectl on a server, which asks that server.
func (s *several) on(m *machine, args ...string) string {
	s.Helper()
	return m.do(append([]string{"kubectl"}, args...)...)
}

// eventually waits until kubectl's answer is as wanted.
func (s *several) eventually(m *machine, what string, is func(string) bool, args ...string) {
	s.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		out, err := m.peapod(append([]string{"kubectl"}, args...)...)
		if err == nil && is(out) {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: the last answer is %q, %v", what, out, err)
		}
		// The servers tell of this by no event that kubectl could wait for.
		time.Sleep(200 * time.Millisecond)
	}
}

func (s *several) startServer(m *machine, more ...string) {
	s.Helper()
	m.start(append(append([]string{"server", "--port", port, "--node-name", m.name, "--node-ip", m.ip}, s.etcd.flags()...), more...)...)
}

func (s *several) token() string {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(s.first.data, "server-token"))
	must(s.T, err)
	return strings.TrimSpace(string(b))
}

// newSeveral makes the machines, with an etcd that runs; nothing else does.
func newSeveral(t *testing.T) *several {
	t.Helper()
	binary := binaryFor(t)
	wire := newWire(t)
	s := &several{T: t, etcd: newEtcd(t, wire, binary, 9)}
	s.first, s.second = newMachine(t, wire, binary, "one", 1), newMachine(t, wire, binary, "two", 2)
	s.node = newMachine(t, wire, binary, "three", 3)
	return s
}

func TestSeveralServers(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	s.startServer(s.first)
	for _, step := range []struct {
		name string
		run  func(*several)
	}{
		{"a server without the token, or with another, joins nothing", wrongServerToken},
		{"a second server joins", secondServer},
		{"the servers' token is changed", rotateToken},
		{"addresses are given once", addressesOnce},
		{"custom resources", customResources},
		{"an agent joins", agentJoins},
		{"etcd is killed and comes back", etcdReturns},
		{"a server is killed and the other goes on", serverDies},
		{"the server that leads is cut off", leaderCut},
		{"all are killed at once", allDie},
	} {
		t.Log(step.name)
		step.run(s)
	}
}

func wrongServerToken(s *several) {
	for _, test := range []struct {
		want string
		more []string
	}{
		{"--token is needed", nil},
		{"it is not the token of this cluster's servers", []string{"--token", "0123456789abcdef"}},
		{"--port 7000: the servers of this cluster serve on " + port, []string{"--token", s.token(), "--port", "7000"}},
		{"--service-cidr 10.7.0.0/16: the cluster has ", []string{"--token", s.token(), "--service-cidr", "10.7.0.0/16"}},
		{`--node-name "one": another server of the cluster has that name`, []string{"--token", s.token(), "--node-name", "one"}},
	} {
		args := append([]string{"server", "--port", port, "--node-name", "two", "--node-ip", s.second.ip}, s.etcd.flags()...)
		out, err := s.second.peapod(append(args, test.more...)...)
		if err == nil || !strings.Contains(out, test.want) {
			s.Errorf("%v: want %q, got %v: %s", test.more, test.want, err, out)
		}
		must(s.T, os.RemoveAll(s.second.data))
	}
}

// rotateToken has a stolen token open nothing, while a server runs on; the other one starts again with the new token. The first does so
// at the end.
func rotateToken(s *several) {
	stolen := s.token()
	s.second.end(unix.SIGTERM)
	out := s.first.do(append([]string{"token", "rotate"}, s.etcd.flags()...)...)
	if now := s.token(); now == stolen || !strings.Contains(out, now) {
		s.Errorf("the token was not changed, or the new one not printed: %s", out)
	}
	args := append([]string{"server", "--port", port, "--node-name", "two", "--node-ip", s.second.ip}, s.etcd.flags()...)
	for _, more := range [][]string{nil, {"--token", stolen}} {
		if out, err := s.second.peapod(append(args, more...)...); err == nil || !strings.Contains(out, "it is not the token of this cluster's servers") {
			s.Errorf("a server with the old token: %v: %s", err, out)
		}
	}
	s.startServer(s.second, "--token", s.token())
	s.on(s.first, "wait", "--for=condition=Ready", "node/one", "node/two", "--timeout=60s")
}

func secondServer(s *several) {
	s.startServer(s.second, "--token", s.token())
	for _, m := range []*machine{s.first, s.second} {
		s.on(m, "wait", "--for=condition=Ready", "node/one", "node/two", "--timeout=60s")
		s.eventually(m, "Service kubernetes leads to both", func(out string) bool {
			return out == s.first.ip+" "+s.second.ip
		}, "get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
	}
	if one, two := s.on(s.first, "get", "node", "one", "-o", "jsonpath={.spec.podCIDR}"), s.on(s.first, "get", "node", "two", "-o", "jsonpath={.spec.podCIDR}"); one == two || one == "" || two == "" {
		s.Errorf("the nodes' Pod networks are %q and %q", one, two)
	}
	// What one writes the other shows, and a token of the one is good at the other.
	s.on(s.first, "create", "serviceaccount", "robot")
	token := strings.TrimSpace(s.on(s.first, "create", "token", "robot"))
	review := filepath.Join(s.TempDir(), "review.yaml")
	must(s.T, os.WriteFile(review, []byte("{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {token: "+token+"}}"), 0o600))
	if got := s.on(s.second, "create", "-f", review, "-o", "jsonpath={.status.user.username}"); got != "system:serviceaccount:default:robot" {
		s.Errorf("the token of one server is %q at the other", got)
	}
	for _, lock := range []string{"kube-controller-manager", "kube-scheduler"} {
		if got := s.on(s.second, "get", "lease", lock, "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"); !strings.HasPrefix(got, "one_") {
			s.Errorf("the leader of %s is %q", lock, got)
		}
	}
	s.on(s.second, "create", "deployment", "web", "--image=peapod.local/hello:latest", "--replicas=4")
	s.on(s.first, "rollout", "status", "deployment/web", "--timeout=60s")
	if nodes := s.on(s.first, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"); !strings.Contains(nodes, "one") || !strings.Contains(nodes, "two") {
		s.Errorf("the Pods are on %q", nodes)
	}
	s.on(s.first, "expose", "deployment", "web", "--port=80", "--target-port=8080")
	// From one server's Pods to the others', over the wire and through the Service; logs from the other server's node.
	for _, m := range []*machine{s.first, s.second} {
		for _, name := range strings.Fields(s.on(m, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}")) {
			if got := s.on(m, "get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/"); !strings.Contains(got, greeting(name)) {
				s.Errorf("%s answers server %s with %q", name, m.name, got)
			}
			if got := s.on(m, "logs", name); !strings.Contains(got, greeting(name)) {
				s.Errorf("server %s has %q as the log of %s", m.name, got, name)
			}
		}
	}
}

// addressesOnce makes Services through both servers at once: no address and no node port is given twice.
func addressesOnce(s *several) {
	const each = 40
	done := make(chan error, 2)
	for _, m := range []*machine{s.first, s.second} {
		var list strings.Builder
		for i := range each {
			fmt.Fprintf(&list, "{apiVersion: v1, kind: Service, metadata: {name: %s-%d, labels: {test: once}}, spec: {type: NodePort, ports: [{port: 80}]}}\n---\n", m.name, i)
		}
		file := filepath.Join(s.TempDir(), m.name+".yaml")
		must(s.T, os.WriteFile(file, []byte(list.String()), 0o600))
		go func() {
			_, err := m.peapod("kubectl", "create", "-f", file)
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			s.Fatal(err)
		}
	}
	for _, field := range []string{".spec.clusterIP", ".spec.ports[0].nodePort"} {
		seen := map[string]bool{}
		for _, v := range strings.Fields(s.on(s.first, "get", "services", "-l", "test=once", "-o", "jsonpath={.items[*]"+field+"}")) {
			if seen[v] {
				s.Errorf("%s %s was given twice", field, v)
			}
			seen[v] = true
		}
		if len(seen) != 2*each {
			s.Errorf("%d Services have a %s", len(seen), field)
		}
	}
	taken := s.on(s.first, "get", "service", "one-0", "-o", "jsonpath={.spec.clusterIP}")
	if out, err := s.second.peapod("kubectl", "create", "service", "clusterip", "again", "--clusterip="+taken, "--tcp=80"); err == nil || !strings.Contains(out, "provided IP is already allocated") {
		s.Errorf("%s again: %s, %v", taken, out, err)
	}
	s.on(s.first, "delete", "service", "one-0")
	s.on(s.second, "create", "service", "clusterip", "again", "--clusterip="+taken, "--tcp=80")
	s.on(s.second, "delete", "service", "again")
	s.on(s.second, "delete", "services", "-l", "test=once")
}

// customResources are defined through one server and made through the other, whose watch cache learns of the definition.
func customResources(s *several) {
	const definition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: crabs.example.com},
spec: {group: example.com, scope: Namespaced, names: {plural: crabs, kind: Crab},
versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {legs: {type: integer, default: 8}}}}}]}}`
	file := filepath.Join(s.TempDir(), "crd.yaml")
	must(s.T, os.WriteFile(file, []byte(definition), 0o600))
	s.on(s.first, "create", "-f", file)
	s.on(s.second, "wait", "--for=condition=Established", "crd/crabs.example.com", "--timeout=60s")
	crab := filepath.Join(s.TempDir(), "crab.yaml")
	must(s.T, os.WriteFile(crab, []byte("{apiVersion: example.com/v1, kind: Crab, metadata: {name: hermit}}"), 0o600))
	s.eventually(s.second, "the second server serves them", func(string) bool { return true }, "apply", "-f", crab)
	s.eventually(s.first, "the first shows what the second made", func(out string) bool { return out == "8" }, "get", "crab", "hermit", "-o", "jsonpath={.legs}")
	s.on(s.first, "delete", "crd", "crabs.example.com")
}

func agentJoins(s *several) {
	out := strings.Fields(s.first.do("token", "create", "--description", "test"))
	s.node.start("agent", "--server", "https://"+s.first.ip+":"+port, "--token", out[len(out)-1], "--node-name", s.node.name, "--node-ip", s.node.ip)
	s.on(s.first, "wait", "--for=condition=Ready", "node/three", "--timeout=60s")
}

// etcdReturns kills etcd while there is writing: what was acknowledged is there afterwards, and meanwhile the servers say
// what they lack and go on running.
func etcdReturns(s *several) {
	stop, acked := make(chan struct{}), make(chan []string)
	go func() {
		var names []string
		for i := 0; ; i++ {
			select {
			case <-stop:
				acked <- names
				return
			default:
			}
			name := fmt.Sprintf("write-%d", i)
			if _, err := s.second.peapod("kubectl", "create", "configmap", name, "--from-literal=n="+name, "--request-timeout=5s"); err == nil {
				names = append(names, name)
			}
		}
	}()
	s.eventually(s.first, "some writes are there", func(out string) bool { return strings.Count(out, "write-") > 3 }, "get", "configmaps", "-o", "name")
	s.etcd.kill()
	for _, m := range []*machine{s.first, s.second} {
		deadline := time.Now().Add(time.Minute)
		for {
			out, err := m.peapod("kubectl", "get", "--raw", "/readyz?verbose")
			if err != nil && strings.Contains(out, "[-]etcd failed") {
				break
			}
			if time.Now().After(deadline) {
				s.Fatalf("server %s is not unready without etcd: %v, %s", m.name, err, out)
			}
		}
	}
	s.etcd.start()
	for _, m := range []*machine{s.first, s.second} {
		s.eventually(m, "ready again", func(out string) bool { return strings.TrimSpace(out) == "ok" }, "get", "--raw", "/readyz")
	}
	close(stop)
	names := <-acked
	have := s.on(s.first, "get", "configmaps", "-o", "jsonpath={.items[*].data.n}")
	for _, name := range names {
		if !strings.Contains(" "+have+" ", " "+name+" ") {
			s.Errorf("%s was acknowledged and is lost", name)
		}
	}
	s.Logf("%d writes were acknowledged", len(names))
	// The containers ran on, and somebody leads again.
	if got := s.on(s.first, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); got != "0 0 0 0" {
		s.Errorf("the restarts are %q", got)
	}
	s.on(s.second, "scale", "deployment/web", "--replicas=5")
	s.on(s.second, "rollout", "status", "deployment/web", "--timeout=90s")
}

// serverDies kills the server that leads: the other takes over, and what the dead one had is put elsewhere.
func serverDies(s *several) {
	s.first.end(unix.SIGKILL)
	s.eventually(s.second, "the second leads", func(out string) bool { return strings.HasPrefix(out, "two_") },
		"get", "lease", "kube-controller-manager", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}")
	s.eventually(s.second, "Service kubernetes leads to the second alone", func(out string) bool { return out == s.second.ip },
		"get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
	// The agent was told of the first server only. It goes on with the second: the Pod can only run there.
	s.on(s.second, "cordon", "one", "two")
	s.on(s.second, "create", "deployment", "after", "--image=peapod.local/hello:latest", "--replicas=1")
	s.on(s.second, "wait", "--for=condition=Ready", "node/three", "--timeout=60s")
	s.on(s.second, "rollout", "status", "deployment/after", "--timeout=120s")
	// Also from its start on, though the one that it was told of is still away.
	s.node.end(unix.SIGTERM)
	s.node.start("agent", "--node-name", s.node.name, "--node-ip", s.node.ip)
	s.on(s.second, "scale", "deployment/after", "--replicas=2")
	s.on(s.second, "rollout", "status", "deployment/after", "--timeout=120s")
	s.on(s.second, "uncordon", "one", "two")
	s.startServer(s.first)
	s.eventually(s.second, "Service kubernetes leads to both again", func(out string) bool { return out == s.first.ip+" "+s.second.ip },
		"get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
	s.on(s.first, "rollout", "status", "deployment/after", "--timeout=60s")
}

// leads waits until one of the servers has the lock of the controllers and the one of the scheduler, as the other machine or that one sees it.
func (s *several) leads(m *machine, name string) {
	s.Helper()
	for _, lock := range []string{"kube-controller-manager", "kube-scheduler"} {
		s.eventually(m, name+" leads", func(out string) bool { return strings.HasPrefix(out, name+"_") },
			"get", "lease", lock, "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}")
	}
}

// containers are the Deployment's, with how often they were started again.
func (s *several) containers(m *machine) string {
	s.Helper()
	return s.on(m, "get", "pods", "-l", "app=web", "--sort-by=.metadata.name", "-o",
		"jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}")
}

// leaderCut has the server that leads lose etcd and the others: another one leads and acts, the one that is cut off says that it is not ready and
// does nothing, and is one of several again afterwards. Its Pods stay, as their node is not given up in that time.
func leaderCut(s *several) {
	s.leads(s.second, "two")
	s.on(s.first, "rollout", "status", "deployment/web", "--timeout=120s")
	before := s.containers(s.first)
	s.on(s.first, "cordon", "two") // New Pods would be sent there until the node is known to be away.
	s.second.cut(true)
	s.leads(s.first, "one")
	out, err := s.second.peapod("kubectl", "get", "--raw", "/readyz?verbose")
	if err == nil || !strings.Contains(out, "[-]etcd failed") {
		s.Errorf("the server that is cut off is ready: %v, %s", err, out)
	}
	s.on(s.first, "create", "deployment", "meanwhile", "--image=peapod.local/hello:latest", "--replicas=2")
	s.on(s.first, "rollout", "status", "deployment/meanwhile", "--timeout=120s")
	s.second.cut(false)
	s.eventually(s.second, "ready again", func(out string) bool { return strings.TrimSpace(out) == "ok" }, "get", "--raw", "/readyz")
	s.on(s.first, "wait", "--for=condition=Ready", "node/two", "--timeout=120s")
	s.leads(s.second, "one")
	if now := s.containers(s.second); now != before {
		s.Errorf("the containers were\n%sand are\n%s", before, now)
	}
	s.on(s.second, "uncordon", "two")
	s.on(s.second, "delete", "deployment", "meanwhile")
	s.on(s.second, "wait", "--for=delete", "pod", "-l", "app=meanwhile", "--timeout=120s")
}

// allDie kills everything but the containers, and starts it in the least convenient order.
func allDie(s *several) {
	before := s.containers(s.first)
	for _, m := range []*machine{s.first, s.second, s.node} {
		m.end(unix.SIGKILL)
	}
	s.etcd.kill()
	s.node.launch("agent", "--node-name", s.node.name, "--node-ip", s.node.ip)
	s.second.launch(append([]string{"server", "--port", port, "--node-name", s.second.name, "--node-ip", s.second.ip}, s.etcd.flags()...)...)
	s.etcd.start()
	s.startServer(s.first)
	for _, m := range []*machine{s.first, s.second, s.node} {
		m.do("status", "--wait", "2m")
	}
	s.on(s.second, "wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
	if now := s.containers(s.second); now != before {
		s.Errorf("the containers were\n%sand are\n%s", before, now)
	}
	s.on(s.second, "scale", "deployment/web", "--replicas=2")
	s.eventually(s.second, "somebody leads", func(out string) bool { return out == "2 2" },
		"get", "deployment/web", "-o", "jsonpath={.status.replicas} {.status.readyReplicas}")
}
