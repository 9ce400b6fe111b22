package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Each bad option is refused before anything is made, by an error that names flag and value and says what would do.
func TestServerRefusesBadOptions(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	file := func(text string) string { return write(t, "server.yaml", text) }
	for _, test := range []struct {
		args  []string
		texts []string
	}{
		{[]string{"--port", "0"}, []string{"--port 0", "between 1 and 65535"}},
		{[]string{"--port", "70000"}, []string{"--port 70000", "between 1 and 65535"}},
		{[]string{"--port", "http"}, []string{"--port", `"http"`}},
		{[]string{"--kubelet-port", "-1"}, []string{"--kubelet-port -1", "between 0 and 65535"}},
		{[]string{"--bind-address", "here"}, []string{`--bind-address "here"`, "0.0.0.0"}},
		{[]string{"--node-ip", "127.0.0.1"}, []string{`--node-ip "127.0.0.1"`}},
		{[]string{"--cluster-cidr", "10.0.0.0"}, []string{`--cluster-cidr "10.0.0.0"`, "10.244.0.0/16"}},
		{[]string{"--cluster-cidr", "10.9.0.0/30"}, []string{`--cluster-cidr "10.9.0.0/30"`, "/24"}},
		{[]string{"--service-cidr", "10.9.0.0/31"}, []string{`--service-cidr "10.9.0.0/31"`, "/28"}},
		{[]string{"--cluster-cidr", "10.9.0.0/16", "--service-cidr", "10.9.8.0/24"}, []string{"10.9.0.0/16", "10.9.8.0/24"}},
		{[]string{"--node-name", "Not_A_Name"}, []string{`--node-name "Not_A_Name"`, "lower case"}},
		{[]string{"--cluster-signing-duration", "0s"}, []string{"--cluster-signing-duration 0s", "must be positive", "8760h"}},
		{[]string{"--node-monitor-grace-period", "10s"}, []string{"--node-monitor-grace-period 10s", "more than the 10s", "50s"}},
		{[]string{"--config", file("nodeMonitorGracePeriod: 5s\n")}, []string{"--node-monitor-grace-period 5s"}},
		{[]string{"--no-such-flag"}, []string{"--no-such-flag"}},
		{[]string{"extra"}, []string{"extra"}},
		{[]string{"--config", "/nonexistent.yaml"}, []string{"--config", "/nonexistent.yaml", "no such file"}},
		{[]string{"--config", file("prot: 6443\n")}, []string{"--config", "server.yaml", `unknown field "prot"`}},
		{[]string{"--config", file("port: many\n")}, []string{"--config", "server.yaml", "port", "int"}},
		{[]string{"--config", file("port: 70000\n")}, []string{"--port 70000", "between 1 and 65535"}},
		{[]string{"--config", file("a: b: c\n")}, []string{"--config", "server.yaml", "yaml"}},
	} {
		what := "peapod server " + strings.Join(test.args, " ")
		verb(t, c, "", append([]string{"server"}, test.args...)...).want(t, what, 1, test.texts...)
	}
	if left, err := os.ReadDir(filepath.Join(c.Instance.DataDir, "store")); err == nil {
		t.Errorf("a refused server made a store: %v", left)
	}
}

func TestServerRefusesTakenPort(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	verb(t, c, "", "server", "--port", port).want(t, "server on a taken port", 1, "0.0.0.0:"+port, "address already in use", "--port")
	verb(t, c, "", "server", "--port", strconv.Itoa(c.Port), "--kubelet-port", port).
		want(t, "kubelet on a taken port", 1, port, "address already in use", "--kubelet-port")
}

// The second server on a data directory says who has it, and leaves the first alone.
func TestSecondServerOnDataDirectory(t *testing.T) {
	t.Parallel()
	c := shared.cluster
	r := verb(t, c, "", "server", "--port", strconv.Itoa(unstarted(t).Port))
	r.want(t, "second server", 1, c.Instance.DataDir, strconv.Itoa(c.ServerPID()), "peapod stop --data-dir "+c.Instance.DataDir)
	verb(t, c, "", "status").want(t, "status of the first", 0, "ready", c.Instance.Kubeconfig())
}

func TestNewerDataDirectoryIsRefusedUntouched(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	if err := os.Mkdir(c.Instance.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(c.Instance.DataDir, "peapod.json")
	const newer = `{"format": 99, "version": "v9.9.9"}`
	if err := os.WriteFile(record, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	verb(t, c, "", "server", "--port", strconv.Itoa(c.Port)).want(t, "server on a newer directory", 1, "v9.9.9", "format 99", "--data-dir")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the record", string(b), newer)
}

// The file sets what flags do not.
func TestServerConfigurationFile(t *testing.T) {
	t.Parallel()
	const cidr, service = "10.199.32.0/20", "10.199.16.0/24"
	config := write(t, "server.yaml", fmt.Sprintf("nodeName: from-file\nclusterCIDR: %s\nserviceCIDR: 10.198.0.0/24\nbindAddress: 127.0.0.1\n", cidr))
	o := newOwn(t, "--config", config, "--service-cidr", service)
	s := o.space()
	s.kubectl("wait", "--for=condition=Ready", "node/from-file", "--timeout=60s")
	node, err := o.client.CoreV1().Nodes().Get(t.Context(), "from-file", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the node's Pod addresses", node.Spec.PodCIDR, "10.199.32.0/24")
	s.kubectl("create", "service", "clusterip", "some", "--tcp=80:80")
	contains(t, "a Service's address", s.kubectl("get", "service", "some", "-o", "jsonpath={.spec.clusterIP}"), "10.199.16.")
	port := strconv.Itoa(o.Port)
	if conn, err := net.Dial("tcp", net.JoinHostPort(nodeIP(t, node), port)); err == nil {
		conn.Close()
		t.Error("the API is served beyond bindAddress")
	}
	// The ranges stay with the directory.
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	verb(t, o.Cluster, "", "server", "--port", port, "--cluster-cidr", "10.188.0.0/16").want(t, "server with another range", 1, "cluster-cidr", cidr)
	o.restart()
}

func TestWordsAboutItself(t *testing.T) {
	t.Parallel()
	c := unstarted(t)
	verb(t, c, "", "version").want(t, "version", 0, "peapod ", "Kubernetes API v1.")
	help := verb(t, c, "", "--help")
	help.want(t, "--help", 0, "peapod server", "peapod stop", "uninstall", "image", "check", "completion")
	if server, agent := strings.Index(help.stdout, "\n  server "), strings.Index(help.stdout, "\n  agent "); server < 0 || agent < server {
		t.Errorf("help does not list the server's verb before the agent's:\n%s", help.stdout)
	}
	verb(t, c, "", "help", "kill").want(t, "help kill", 0, "What was declared is kept", "--yes")
	verb(t, c, "", "nonsense").want(t, "unknown verb", 1, `unknown command "nonsense"`)
	verb(t, c, "", "token", "create", "--tll=1h").want(t, "unknown flag", 1, "unknown flag: --tll; 'peapod token create --help' lists its flags")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		verb(t, c, "", "completion", shell).want(t, "completion "+shell, 0, "peapod")
	}
	verb(t, c, "", "__complete", "sto").want(t, "completion of a verb", 0, "stop")
	check := verb(t, c, "", "check")
	check.want(t, "check", 0, "cgroups", "overlayfs", "network", "seccomp", "disk", "mounts")
	if strings.Contains(check.stdout, "FAILED") {
		t.Errorf("check fails on a machine that runs Pods:\n%s", check.stdout)
	}
	if _, err := os.Stat(c.Instance.DataDir); err == nil {
		t.Error("asking made the data directory")
	}
}
