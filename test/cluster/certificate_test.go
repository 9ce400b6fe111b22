package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shown is the certificate that a kubelet shows to who connects from the machine.
func (m *machine) shown(address string) (leaf *x509.Certificate, err error) {
	err = m.inside(func() error {
		// Who it is does not matter here; the API server, which looks, is asked by the test as well.
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.Close()
		leaf = c.ConnectionState().PeerCertificates[0]
		return nil
	})
	return leaf, err
}

// kept is the certificate in a file of the machine.
func (m *machine) kept(name string) *x509.Certificate {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.data, "pki", name+".pem"))
	must(m.t, err)
	block, _ := pem.Decode(b)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(m.t, err)
	return leaf
}

// An agent's certificates are replaced before they are over, in the running process: the one that its kubelet shows, and those by
// which it is known to the server. Nothing that goes on notices.
func TestCertificatesOfAgentsAreRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, "--cluster-signing-duration=24s")
	agent := w.second
	requests := w.server.kubectlTalk("get", "csr", "--watch", "--no-headers")
	w.kubectl("run", "steady", "--image=peapod.local/hello:latest", `--overrides={"spec":{"nodeName":"two"}}`)
	w.kubectl("wait", "--for=condition=Ready", "pod/steady", "--timeout=120s")
	container := w.kubectl("get", "pod", "steady", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	logs := w.server.kubectlTalk("logs", "-f", "steady")
	logs.next()
	port := strings.TrimSpace(w.kubectl("get", "node", "two", "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}"))
	address := net.JoinHostPort(agent.ip, port)
	first, err := w.server.shown(address)
	must(t, err)
	firstOf := map[string]*x509.Certificate{"node-client": agent.kept("node-client"), "proxy-client": agent.kept("proxy-client"), "kubelet-server": first}
	// Until each was replaced and the first ones are all over, so that nothing could go on with them.
	over := func() bool {
		now, err := w.server.shown(address)
		must(t, err)
		if time.Now().After(now.NotAfter) {
			t.Fatalf("the kubelet shows a certificate that is over since %s", now.NotAfter)
		}
		for name, was := range firstOf {
			is := agent.kept(name)
			if name == "kubelet-server" {
				is = now
			}
			if is.SerialNumber.Cmp(was.SerialNumber) == 0 || time.Now().Before(was.NotAfter) {
				return false
			}
		}
		return true
	}
	for !over() {
		requests.next() // Each certificate is asked for by a request.
	}
	w.kubectl("run", "late", "--image=peapod.local/hello:latest", `--overrides={"spec":{"nodeName":"two"}}`)
	w.kubectl("wait", "--for=condition=Ready", "pod/late", "--timeout=120s")
	if got := w.kubectl("logs", "late"); !strings.Contains(got, greeting("late")) {
		t.Errorf("the log of a Pod made afterwards is %q", got)
	}
	if got := w.kubectl("get", "node", "two", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); got != "True" {
		t.Errorf("the node is ready: %s", got)
	}
	if got := w.kubectl("get", "pod", "steady", "-o", "jsonpath={.status.containerStatuses[0].containerID}"); got != container {
		t.Errorf("the container was %s and is %s", container, got)
	}
	// Who followed the log before does still.
	w.kubectl("delete", "pod", "steady", "--timeout=120s")
	if code, errs := logs.end(); code != 0 {
		t.Errorf("the log that was followed ends with %d: %s", code, errs)
	}
	b, err := os.ReadFile(agent.log.File)
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "Unauthorized") || strings.Contains(line, "certificate has expired") {
			t.Errorf("the agent was refused: %s", line)
		}
	}
}
