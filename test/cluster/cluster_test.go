// Package cluster tests several nodes: machines made of network and mount namespaces on this one, each running the real
// binary, on a wire that can be cut.
package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/e2e/cluster"
)

const port = "16460"

// client is an image with curl.
const client = "gentledev10/ubuntu-curl"

// world is a server and two agents.
type world struct {
	*testing.T
	server, second, third *machine
	// flags are those of the server beyond the constant ones; token is what agents join with.
	flags []string
	token string
}

// kubectl runs where the server runs.
func (w *world) kubectl(args ...string) string {
	w.Helper()
	return w.server.do(append([]string{"kubectl"}, args...)...)
}

// create makes a Pod on a node, which greets with its name on port 8080 and has a client beside that. Labels and more of the spec
// are JSON.
func (w *world) create(name, node, labels, more string) {
	w.Helper()
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{%s}},"spec":{"nodeName":%q,"terminationGracePeriodSeconds":1,%s
"containers":[{"name":"web","image":"peapod.local/hello:latest"},{"name":"client","image":%q,"imagePullPolicy":"IfNotPresent","command":["sleep","1000000"]}]}}`, name, labels, node, more, client)
	file := filepath.Join(w.TempDir(), name+".json")
	must(w.T, os.WriteFile(file, []byte(manifest), 0o600))
	w.kubectl("apply", "-f", file)
}

// pod makes a Pod of the label app=web, and waits until it is ready.
func (w *world) pod(name, node string, more string) {
	w.Helper()
	w.create(name, node, `"app":"web"`, more)
	w.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=120s")
}

func greeting(pod string) string { return "Hello from Pod " + pod }

func (w *world) agent(m *machine) {
	w.Helper()
	m.start("agent", "--server", "https://"+w.server.ip+":"+port, "--token", w.token, "--node-name", m.name, "--node-ip", m.ip)
	if out := m.do("status"); !strings.HasPrefix(out, "agent (process ") || strings.Contains(out, "kubeconfig") {
		w.Errorf("status of an agent: %s", out)
	}
}

// binaryFor returns the program to test, which takes root.
func binaryFor(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if given := os.Getenv("PEAPOD"); given != "" {
		return given
	}
	root, err := cluster.Root()
	must(t, err)
	return filepath.Join(root, "bin", "peapod")
}

// newWorld starts a server, with these flags, and so many agents (at most two), and waits until they are nodes.
func newWorld(t *testing.T, agents int, flags ...string) *world {
	t.Helper()
	binary := binaryFor(t)
	wire := newWire(t)
	w := &world{T: t, flags: flags, server: newMachine(t, wire, binary, "one", 1)}
	for i, m := range []**machine{&w.second, &w.third}[:agents] {
		*m = newMachine(t, wire, binary, []string{"two", "three"}[i], 2+i)
	}
	w.startServer()
	out := strings.Fields(w.server.do("token", "create", "--description", "test"))
	w.token = out[len(out)-1]
	for _, m := range w.machines()[1:] {
		w.agent(m)
	}
	w.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
	return w
}

// machines are those that there are, the server first.
func (w *world) machines() []*machine {
	return slices.DeleteFunc([]*machine{w.server, w.second, w.third}, func(m *machine) bool { return m == nil })
}

func TestSeveralNodes(t *testing.T) {
	t.Parallel()
	archives, err := cluster.MakeArchives(t.Context())
	must(t, err)
	// A node that is cut off is lost after two signs of life that do not come.
	w := newWorld(t, 2, "--node-monitor-grace-period=20s")
	for _, m := range w.machines() {
		m.do("image", "import", archives.File(client))
	}
	w.third.do("image", "import", archives.File("busybox"))
	// Each step goes on from where the one before left the cluster.
	for _, step := range []struct {
		name string
		run  func(*world)
	}{
		{"tokens are made and end, and a wrong one joins nothing", tokens},
		{"Pods reach each other", reach},
		{"Services lead to all nodes", services},
		{"a range of cluster IPs joins and goes", laterRange},
		{"a load balancer leaves out a node", balancer},
		{"streams from any node", streams},
		{"a user talks to a Pod of another node", longCalls},
		{"a node is cut off ten times", cutOften},
		{"drain and uncordon", drain},
		{"a volume is on its node", localVolumes},
		{"an agent restarts under its Pods", restartAgent},
		{"the server restarts", restartServer},
		{"the server is cut off", serverCut},
		{"a node is deleted", deleteNode},
	} {
		t.Log(step.name)
		began := time.Now()
		step.run(w)
		t.Logf("%s took %s", step.name, time.Since(began).Round(time.Second/10))
	}
}

func (w *world) startServer() {
	w.Helper()
	w.server.start(append([]string{"server", "--port", port, "--node-name", w.server.name, "--node-ip", w.server.ip}, w.flags...)...)
}

// tokens are made, listed and deleted, and nobody joins but with one that there is.
func tokens(w *world) {
	other := newMachine(w.T, w.server.w, w.server.binary, "four", 4)
	made := func(args ...string) string {
		out := strings.Fields(w.server.do(append([]string{"token", "create"}, args...)...))
		return out[len(out)-1]
	}
	id := func(token string) string { return token[:6] }
	forever, short, deleted := made("--ttl=0", "--description=for ever"), made("--ttl=1s"), made("--ttl=1h")
	list := w.server.do("token", "list")
	hour := time.Now().Add(time.Hour)
	listed := map[string]int{}
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		listed[f[0]]++
		switch f[0] {
		case "ID":
			if !slices.Equal(f, []string{"ID", "EXPIRES", "DESCRIPTION"}) {
				w.Errorf("the list begins with %q", line)
			}
		case id(forever):
			if !slices.Equal(f[1:], []string{"never", "for", "ever"}) {
				w.Errorf("the token without an end is listed as %q", line)
			}
		case id(deleted):
			if at, err := time.Parse(time.RFC3339, f[1]); err != nil || len(f) != 2 || at.After(hour) || at.Before(hour.Add(-5*time.Minute)) {
				w.Errorf("the token of an hour is listed as %q", line)
			}
		}
	}
	if listed["ID"] != 1 || listed[id(forever)] != 1 || listed[id(deleted)] != 1 {
		w.Errorf("not in the list of tokens, once each: the head, %s and %s:\n%s", id(forever), id(deleted), list)
	}
	for _, token := range []string{forever, deleted} {
		if !strings.Contains(list, id(token)) || strings.Contains(list, token[7:23]) {
			w.Errorf("token %s is not listed, or with its secret:\n%s", id(token), list)
		}
	}
	if out := w.server.do("token", "delete", id(deleted)); out != "token deleted\n" {
		w.Errorf("delete says %q", out)
	}
	if out := w.server.do("token", "delete", deleted); out != "there is no such token\n" {
		w.Errorf("delete says %q of what is gone", out)
	}
	for want, args := range map[string][]string{"name the token by its ID": {"delete", "nonsense"}, "--ttl -1s: must not be negative": {"create", "--ttl=-1s"}} {
		if out, err := w.server.peapod(append([]string{"token"}, args...)...); err == nil || !strings.Contains(out, want) {
			w.Errorf("token %v says %q, %v", args, out, err)
		}
	}
	w.kubectl("wait", "--for=delete", "-n", "kube-system", "secret/bootstrap-token-"+id(short), "--timeout=120s")
	pin := forever[strings.LastIndex(forever, "."):]
	unknown := func(token string) string {
		return "--token: the server does not know token " + id(token) + ", or its time is over"
	}
	for _, c := range []struct{ what, token, want string }{
		{"another cluster's", forever[:len(forever)-4] + "0000", "this is another cluster, or somebody in between"},
		{"a forged", "abcdef.0123456789abcdef" + pin, unknown("abcdef")},
		{"one with another's secret", forever[:7] + "0123456789abcdef" + pin, unknown(forever)},
		{"a deleted", deleted, unknown(deleted)},
		{"one whose time is over", short, unknown(short)},
		{"half a", forever[:23], "--token: the token is not one that `peapod token create` prints"},
	} {
		if out, err := other.peapod("agent", "--server", "https://"+w.server.ip+":"+port, "--token", c.token, "--node-name", "four", "--node-ip", other.ip); err == nil || !strings.Contains(out, c.want) {
			w.Errorf("%s token: want %q, got %v: %s", c.what, c.want, err, out)
		} else if strings.Contains(out, c.token[7:23]) {
			w.Errorf("%s token: its secret is told: %s", c.what, out)
		}
		must(w.T, os.RemoveAll(other.data))
	}
	if got := w.kubectl("get", "nodes", "-o", "name"); strings.Contains(got, "four") {
		w.Errorf("it has joined: %s", got)
	}
}

func reach(w *world) {
	w.pod("on-one", "one", "")
	w.pod("on-two", "two", "")
	w.pod("on-three", "three", "")
	for _, from := range []string{"on-one", "on-two", "on-three"} {
		for _, to := range []string{"on-one", "on-two", "on-three"} {
			ip := w.kubectl("get", "pod", to, "-o", "jsonpath={.status.podIP}")
			if got := w.kubectl("exec", from, "-c", "client", "--", "curl", "-sSm30", "http://"+ip+":8080/"); strings.TrimSpace(got) != greeting(to) {
				w.Errorf("%s at %s answers %s with %q", to, ip, from, got)
			}
		}
	}
}

func streams(w *world) {
	for _, name := range []string{"on-one", "on-two", "on-three"} {
		if got := w.kubectl("logs", name, "-c", "web"); !strings.Contains(got, greeting(name)) {
			w.Errorf("the log of %s is %q", name, got)
		}
		// The server reaches the Pod itself, from its own address in the Pod network.
		if got := w.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/"); strings.TrimSpace(got) != greeting(name) {
			w.Errorf("%s answers the server with %q", name, got)
		}
	}
}

func drain(w *world) {
	w.kubectl("drain", "two", "--force", "--ignore-daemonsets", "--timeout=120s")
	if got := w.kubectl("get", "pods", "-o", "name"); strings.Contains(got, "on-two") {
		w.Errorf("the Pods after the drain are %s", got)
	}
	if got := w.kubectl("get", "node", "two", "-o", "jsonpath={.spec.taints[*].key}"); !strings.Contains(got, "unschedulable") {
		w.Errorf("the taints of a drained node are %q", got)
	}
	w.kubectl("uncordon", "two")
	w.pod("on-two", "two", "")
}

func restartAgent(w *world) {
	before := w.kubectl("get", "pod", "on-two", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	w.second.end(unix.SIGTERM)
	// The Pod goes on without its agent.
	ip := w.kubectl("get", "pod", "on-two", "-o", "jsonpath={.status.podIP}")
	if got := w.kubectl("exec", "on-one", "-c", "client", "--", "curl", "-sSm30", "http://"+ip+":8080/"); strings.TrimSpace(got) != greeting("on-two") {
		w.Errorf("without its agent the Pod answers %q", got)
	}
	w.second.start("agent", "--node-name", "two", "--node-ip", w.second.ip)
	w.pod("new-on-two", "two", "")
	if after := w.kubectl("get", "pod", "on-two", "-o", "jsonpath={.status.containerStatuses[0].containerID}"); after != before {
		w.Errorf("the container was %s and is %s", before, after)
	}
	w.kubectl("delete", "pod", "new-on-two", "--timeout=120s")
}

func deleteNode(w *world) {
	if out := w.second.do("kill", "--yes"); !strings.HasPrefix(out, "agent (process ") {
		w.Errorf("kill of an agent says %q", out)
	}
	for _, c := range []struct {
		want string
		args []string
	}{{"no agent runs", []string{"status"}}, {"start it with 'peapod agent'", []string{"image", "list"}}, {"this machine is an agent: run kubectl where", []string{"kubectl", "get", "pods"}}} {
		if out, err := w.second.peapod(c.args...); err == nil || !strings.Contains(out, c.want) {
			w.Errorf("without its agent peapod %v says %q, %v", c.args, out, err)
		}
	}
	<-w.second.ended
	w.second.running = nil
	w.kubectl("delete", "node", "two")
	w.kubectl("wait", "--for=delete", "pod/on-two", "--timeout=120s")
	w.server.wantWays(1)
	w.third.wantWays(1)
	// It joins again, under the same name.
	w.agent(w.second)
	w.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=120s")
	w.server.wantWays(2)
	w.third.wantWays(2)
	w.pod("again-on-two", "two", "")
	// One that is deleted while it is cut off is there again with the wire, though nobody starts it.
	container := w.kubectl("get", "pod", "on-three", "-o", "jsonpath={.status.containerStatuses[*].containerID}")
	uid := w.kubectl("get", "node", "three", "-o", "jsonpath={.metadata.uid}")
	w.third.cut(true)
	w.kubectl("delete", "node", "three")
	w.server.wantWays(1)
	w.third.cut(false)
	w.kubectl("wait", "--for=create", "node/three", "--timeout=60s")
	w.kubectl("wait", "--for=condition=Ready", "node/three", "--timeout=60s")
	if now := w.kubectl("get", "node", "three", "-o", "jsonpath={.metadata.uid}"); now == uid {
		w.Errorf("the node that was deleted is still %s", uid)
	}
	w.server.wantWays(2)
	if now := w.kubectl("get", "pod", "on-three", "-o", "jsonpath={.status.containerStatuses[*].containerID}"); now != container {
		w.Errorf("the containers were %s and are %s", container, now)
	}
	w.kubectl("wait", "--for=condition=Ready", "pod/on-three", "--timeout=60s")
}
