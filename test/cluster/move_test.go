package cluster

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// moving is a server with a store of its own that is to be moved to etcd, and an agent.
type moving struct {
	*several
	// keys has the flag by which secrets are encrypted.
	keys []string
	// uids, started and revision are what the cluster had before.
	uids, started string
	revision      int
}

// A cluster of one server and an agent is moved to etcd: nothing is lost, nothing starts again, nobody takes old for new.
func TestMoveToEtcd(t *testing.T) {
	t.Parallel()
	m := &moving{several: newSeveral(t)}
	for _, step := range []struct {
		name string
		run  func(*moving)
	}{
		{"a cluster of one server", populated},
		{"what cannot be moved", immovable},
		{"a move is killed, and done again", moved},
		{"all is as it was", asBefore},
		{"the agent goes on, and a second server joins", goesOn},
	} {
		t.Log(step.name)
		step.run(m)
	}
}

// alone are the arguments of the server as it was.
func (m *moving) alone(verb ...string) []string {
	return append(append(verb, "--port", port, "--node-name", "one", "--node-ip", m.first.ip), m.keys...)
}

// kinds are those whose objects are compared.
const kinds = "pods,services,endpointslices,configmaps,secrets,deployments,replicasets,nodes,clusterroles,crabs"

func (m *moving) objects() string {
	return m.on(m.first, "get", kinds, "-A", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid}{"\n"}{end}`)
}

func (m *moving) containers() string {
	return m.on(m.first, "get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state.running.startedAt} {end}")
}

func (m *moving) version(of ...string) int {
	m.Helper()
	n, err := strconv.Atoi(m.on(m.first, append([]string{"get", "-o", "jsonpath={.metadata.resourceVersion}"}, of...)...))
	must(m.T, err)
	return n
}

func populated(m *moving) {
	file := filepath.Join(m.TempDir(), "encryption.yaml")
	must(m.T, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources: [{resources: [secrets], providers: [{aesgcm: {keys: [{name: one, secret: %s}]}}]}]
`, base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600))
	m.keys = []string{"--encryption-provider-config", file}
	m.first.start(m.alone("server")...)
	agentJoins(m.several)
	m.on(m.first, "create", "secret", "generic", "sealed", "--from-literal=word=swordfish")
	crabs := filepath.Join(m.TempDir(), "crabs.yaml")
	must(m.T, os.WriteFile(crabs, []byte(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: crabs.example.com},
spec: {group: example.com, scope: Namespaced, names: {plural: crabs, kind: Crab},
versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {legs: {type: integer, default: 8}}}}}]}}`), 0o600))
	m.on(m.first, "create", "-f", crabs)
	m.on(m.first, "wait", "--for=condition=Established", "crd/crabs.example.com", "--timeout=60s")
	must(m.T, os.WriteFile(crabs, []byte("{apiVersion: example.com/v1, kind: Crab, metadata: {name: hermit}}"), 0o600))
	m.eventually(m.first, "custom objects are served", func(string) bool { return true }, "apply", "-f", crabs)
	m.on(m.first, "create", "deployment", "web", "--image=peapod.local/hello:latest", "--replicas=4")
	m.on(m.first, "create", "service", "nodeport", "web", "--tcp=80:8080", "--node-port=30080")
	m.on(m.first, "rollout", "status", "deployment/web", "--timeout=60s")
	if nodes := m.on(m.first, "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"); !strings.Contains(nodes, "one") || !strings.Contains(nodes, "three") {
		m.Fatalf("the Pods are on %q", nodes)
	}
	// Endpoints of all Pods, so that nothing of the workload is still to come.
	m.eventually(m.first, "the Service leads to all", func(out string) bool { return len(strings.Fields(out)) == 4 },
		"get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready)].addresses[0]}")
}

func immovable(m *moving) {
	refused := func(want string, at *machine, args ...string) {
		m.Helper()
		if out, err := at.peapod(args...); err == nil || !strings.Contains(out, want) {
			m.Errorf("%v: %v, want %q: %s", args, err, want, out)
		}
	}
	move := append(m.alone("store", "move"), m.etcd.flags()...)
	refused("is in use by the server", m.first, move...)
	m.uids, m.started = m.objects(), m.containers()
	m.on(m.first, "create", "configmap", "last")
	m.revision = m.version("configmap", "last")
	m.uids = m.objects()
	m.first.end(unix.SIGTERM)
	refused("--etcd-servers is needed", m.first, m.alone("store", "move")...)
	refused("the cluster has no such node, but one, three", m.first, append(move, "--node-name", "three-and-a-half")...)
	refused("--encryption-provider-config is needed: /core/secrets/default/sealed", m.first, append(move, "--encryption-provider-config=")...)
	refused("has no store", m.second, move...)
	refused("move them there with 'peapod store move'", m.first, append(m.alone("server"), m.etcd.flags()...)...)
}

func moved(m *moving) {
	move := append(m.alone("store", "move"), m.etcd.flags()...)
	first := m.first.command(context.Background(), append([]string{m.first.binary}, move...)...)
	said, err := first.StderrPipe()
	must(m.T, err)
	must(m.T, first.Start())
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Moving ") {
	}
	must(m.T, first.Process.Kill())
	if err := first.Wait(); err == nil {
		m.Error("it was done before it was killed")
	}
	if out := m.first.do(move...); !strings.Contains(out, "Moved ") {
		m.Errorf("it says %q", out)
	}
	if out, err := m.first.peapod(move...); err == nil || !strings.Contains(out, "in etcd already") {
		m.Errorf("once more: %v: %s", err, out)
	}
	if out, err := m.first.peapod(m.alone("server")...); err == nil || !strings.Contains(out, "--etcd-servers is needed") {
		m.Errorf("a server without etcd: %v: %s", err, out)
	}
}

func asBefore(m *moving) {
	m.startServer(m.first, m.keys...)
	m.on(m.first, "wait", "--for=condition=Ready", "node/one", "node/three", "--timeout=60s")
	have := map[string]bool{}
	for _, line := range strings.Split(m.objects(), "\n") {
		have[line] = true
	}
	for _, line := range strings.Split(m.uids, "\n") {
		if !have[line] {
			m.Errorf("%s is lost", line)
		}
	}
	if now := m.containers(); now != m.started {
		m.Errorf("containers were\n%s\nand are\n%s", m.started, now)
	}
	if got := m.on(m.first, "get", "secret", "sealed", "-o", "jsonpath={.data.word}"); got != base64.StdEncoding.EncodeToString([]byte("swordfish")) {
		m.Errorf("the secret is %q", got)
	}
	if now := m.version("crab", "hermit"); now <= m.revision {
		m.Errorf("resource versions begin anew: %d, and they were %d", now, m.revision)
	}
	out := m.on(m.first, "get", "--raw", fmt.Sprintf("/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion=%d", m.revision-1))
	if !strings.Contains(out, `"code":410`) {
		m.Errorf("who asks for changes since the store's revisions gets %s", out)
	}
	if out, err := m.first.peapod("kubectl", "create", "service", "nodeport", "other", "--tcp=80", "--node-port=30080"); err == nil || !strings.Contains(out, "provided port is already allocated") {
		m.Errorf("the node port is given twice: %v: %s", err, out)
	}
}

func goesOn(m *moving) {
	m.on(m.first, "cordon", "one")
	m.on(m.first, "scale", "deployment/web", "--replicas=6")
	m.on(m.first, "rollout", "status", "deployment/web", "--timeout=120s")
	m.on(m.first, "uncordon", "one")
	m.startServer(m.second, append(m.keys, "--token", m.token())...)
	m.on(m.second, "wait", "--for=condition=Ready", "node/one", "node/two", "node/three", "--timeout=60s")
	if got := m.on(m.second, "get", "secret", "sealed", "-o", "jsonpath={.data.word}"); got != base64.StdEncoding.EncodeToString([]byte("swordfish")) {
		m.Errorf("the secret is %q at the second server", got)
	}
}
