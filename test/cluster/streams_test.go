package cluster

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/console"
)

// talker counts on its output, repeats what it is told, and greets on port 8080.
const talker = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"talker"},"spec":{"nodeName":"three","terminationGracePeriodSeconds":0,"containers":[
{"name":"count","image":"busybox","imagePullPolicy":"IfNotPresent","command":["sh","-c","i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"]},
{"name":"repeat","image":"busybox","imagePullPolicy":"IfNotPresent","stdin":true,"command":["cat"]},
{"name":"web","image":"peapod.local/hello:latest","imagePullPolicy":"IfNotPresent"}]}}`

// calls are what a user keeps open to a Pod of another node, all through the server.
type calls struct {
	w                          *world
	log, exec, attach, forward *talk
	address                    string // of the forwarded port
	counted                    int    // what the log said last
	said                       int
}

// call opens them and sees that they work.
func (w *world) call() *calls {
	w.Helper()
	s := w.server
	c := &calls{w: w, log: s.kubectlTalk("logs", "-f", "talker", "-c", "count", "--tail=1"), exec: s.kubectlTalk("exec", "-i", "talker", "-c", "count", "--", "cat"),
		attach: s.kubectlTalk("attach", "-i", "talker", "-c", "repeat"), forward: s.kubectlTalk("port-forward", "pod/talker", ":8080")}
	c.counted = c.count()
	c.address = regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(c.forward.next())
	c.work()
	return c
}

func (c *calls) count() int {
	c.w.Helper()
	n, err := strconv.Atoi(c.log.next())
	must(c.w.T, err)
	return n
}

// work sees that they all work, and that the log has left nothing out.
func (c *calls) work() {
	c.w.Helper()
	for range 3 {
		c.said++
		for _, t := range []*talk{c.exec, c.attach} {
			text := fmt.Sprint("said ", c.said)
			t.say(text)
			t.hears(text)
		}
		if n := c.count(); n != c.counted+1 {
			c.w.Fatalf("the log goes from line %d to %d", c.counted, n)
		}
		c.counted++
	}
	if got, err := c.w.server.get(c.address, 30*time.Second); got != greeting("talker") {
		c.w.Errorf("the forwarded port answers %q, %v", got, err)
	}
}

// end waits until all have ended, since the server has: each says so.
func (c *calls) end() {
	c.w.Helper()
	for _, t := range []*talk{c.log, c.exec, c.attach, c.forward} {
		code, errs := t.end()
		c.w.Logf("%s ends with %d: %s", t.what, code, strings.TrimSpace(errs))
		if code == 0 || strings.TrimSpace(errs) == "" {
			c.w.Errorf("%s ends with %d and says %q, though the server was killed", t.what, code, errs)
		}
	}
}

// hangUp ends them from here, what was run in the container first: it is gone when its kubectl is.
func (c *calls) hangUp() {
	c.w.Helper()
	must(c.w.T, c.exec.in.Close())
	if code, errs := c.exec.end(); code != 0 {
		c.w.Errorf("what was run ends with %d: %s", code, errs)
	}
	for _, t := range []*talk{c.log, c.attach, c.forward} {
		t.hangUp()
	}
}

// longCalls has a user at the server talk to a Pod of another node.
func longCalls(w *world) {
	file := filepath.Join(w.TempDir(), "talker.json")
	must(w.T, os.WriteFile(file, []byte(talker), 0o600))
	w.kubectl("apply", "-f", file)
	w.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=120s")
	w.call().hangUp()
	ctx := within(w.T)
	tty := console.Start(w.T, w.server.command(ctx, w.server.binary, "kubectl", "exec", "-it", "talker", "-c", "count", "--", "sh"), 33, 111)
	tty.TypeIn("stty size; echo $((6*7))_\n")
	tty.Shows("33 111")
	tty.Shows("42_")
	tty.TypeIn("exit 5\n")
	if code := tty.Code(); code != 5 {
		w.Errorf("a shell that ended with 5 ended with %d here", code)
	}
	sent := make([]byte, 8<<20)
	rand.Read(sent) // never fails
	there, back := filepath.Join(w.TempDir(), "there"), filepath.Join(w.TempDir(), "back")
	must(w.T, os.WriteFile(there, sent, 0o600))
	w.kubectl("cp", there, "talker:/tmp/copy", "-c", "count")
	w.kubectl("cp", "talker:/tmp/copy", back, "-c", "count")
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, sent) {
		w.Errorf("what was copied there and back has %d bytes, and had %d: %v", len(got), len(sent), err)
	}
}

// restartServer stops the server, kills it, and each time starts it again: who talks to a Pod is told, and can again afterwards.
func restartServer(w *world) {
	for _, how := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		c := w.call()
		w.server.end(how)
		c.end()
		w.untroubled(how)
		w.startServer()
		w.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
		w.call().hangUp()
	}
	w.pod("after", "three", "")
	w.kubectl("delete", "pod", "after", "--timeout=120s")
}

// untroubled sees that a server that was told to stop did not wait for those who talk to Pods until its patience was over.
func (w *world) untroubled(how unix.Signal) {
	w.Helper()
	b, err := os.ReadFile(w.server.log.File)
	must(w.T, err)
	if how == unix.SIGTERM && strings.Contains(string(b), "Failed to shutdown server") {
		w.Errorf("the server waited for its clients in vain")
	}
}

// serverCut pulls the server's plug until it has given up its nodes, and puts it in again. Meanwhile they go on with what they have,
// and afterwards nothing was restarted or moved, and what was open still is.
func serverCut(w *world) {
	const containers = `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.nodeName} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}`
	before := w.kubectl("get", "pods", "-o", containers)
	c := w.call()
	w.kubectl("expose", "pod", "on-three", "--name=far", "--port=80", "--target-port=8080")
	service := w.kubectl("get", "service", "far", "-o", "jsonpath={.spec.clusterIP}") + ":80"
	for _, m := range []*machine{w.second, w.third} {
		m.answered(service, greeting("on-three"))
	}
	lease := func(node string) time.Time {
		t, err := time.Parse(time.RFC3339Nano, w.kubectl("get", "lease", node, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"))
		must(w.T, err)
		return t
	}
	ip := map[string]string{}
	for _, pod := range []string{"on-two", "on-three"} {
		ip[pod] = w.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}") + ":8080"
	}
	w.server.cut(true)
	w.kubectl("wait", "--for=condition=Ready=Unknown", "node/two", "node/three", "--timeout=120s")
	was := map[string]time.Time{"two": lease("two"), "three": lease("three")}
	for _, ask := range []struct {
		from     *machine
		to, want string
	}{{w.second, ip["on-three"], "on-three"}, {w.third, ip["on-two"], "on-two"}, {w.second, service, "on-three"}, {w.third, service, "on-three"}} {
		if got, err := ask.from.get(ask.to, 30*time.Second); got != greeting(ask.want) {
			w.Errorf("without the server %s answers node %s with %q, %v", ask.to, ask.from.name, got, err)
		}
	}
	w.server.cut(false)
	back := time.Now()
	w.kubectl("wait", "--for=condition=Ready", "node/two", "node/three", "--timeout=120s")
	w.Logf("the nodes are ready again after %s", time.Since(back).Round(time.Second/10))
	for node, t := range was {
		if now := lease(node); !now.After(t) {
			w.Errorf("node %s is ready, and its lease is still of %s", node, now)
		}
		w.untainted(node)
	}
	w.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
	c.work()
	c.hangUp()
	if after := w.kubectl("get", "pods", "-o", containers); after != before {
		w.Errorf("the Pods were\n%sand are\n%s", before, after)
	}
	w.kubectl("delete", "service", "far")
}

// untainted waits until a node has no taint.
func (w *world) untainted(node string) {
	w.Helper()
	taints := w.server.kubectlTalk("get", "node", node, "--watch", "-o", `jsonpath={.metadata.name}{range .spec.taints[*]} {.key}:{.effect}{end}{"\n"}`)
	taints.hears(node)
	taints.hangUp()
}
