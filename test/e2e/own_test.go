package e2e

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// own is a cluster of a test's own, for what would disturb the others on the shared one.
type own struct {
	*cluster.Cluster
	t      *testing.T
	client kubernetes.Interface
}

// newOwn starts a cluster that gets docker.io's images from the shared registry. It is uninstalled with the test, which fails
// if that leaves anything.
func newOwn(t *testing.T, args ...string) *own {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Config{Args: args, Prepare: shared.registry.Mirror})
	if c != nil {
		t.Cleanup(func() { uninstall(t, c) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return &own{Cluster: c, t: t, client: clientOf(t, c)}
}

// uninstall ends a test's cluster, and fails the test if that leaves anything.
func uninstall(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	tellIfFailed(t, c.Log)
	if err := c.Uninstall(); err != nil {
		t.Error(err)
		tellIfFailed(t, c.Log)
	}
}

// tellIfFailed shows what a server said to whoever reads why a test failed.
func tellIfFailed(t *testing.T, log *cluster.Log) {
	t.Helper()
	if !t.Failed() {
		return
	}
	if err := log.Tell(os.Stderr, t.Name()); err != nil {
		t.Error(err)
	}
}

func clientOf(t *testing.T, c *cluster.Cluster) kubernetes.Interface {
	t.Helper()
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// space makes a namespace on the cluster. It is removed by no more than uninstalling.
func (o *own) space() *space {
	return &space{t: o.t, cluster: o.Cluster, client: o.client, name: "default"}
}

// restart starts the server again.
func (o *own) restart() {
	o.t.Helper()
	if err := o.StartServer(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
}

// awaitKubelet returns when the kubelet is where the Node says. After a restart it is at another port where its old one is not
// free, which the Node learns after the server is ready.
func (o *own) awaitKubelet() {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	nodes, err := o.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	defer nodes.Stop()
	for event := range nodes.ResultChan() {
		if node, ok := event.Object.(*corev1.Node); ok && listens(node) {
			return
		}
	}
	o.t.Fatal("no node says where its kubelet is")
}

// listens says whether somebody listens where the node's kubelet is to be.
func listens(node *corev1.Node) bool {
	port := strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if conn, err := net.Dial("tcp", net.JoinHostPort(a.Address, port)); err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

// killServer ends the server as a crash would.
func (o *own) killServer() {
	o.t.Helper()
	if err := o.Kill(); err != nil {
		o.t.Fatal(err)
	}
}

// verb is the outcome of `peapod args...` with text on standard input.
func verb(t *testing.T, c *cluster.Cluster, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := c.CommandContext(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(t, cmd)
}

// finish runs a command to its end. A shell's stream of standard error stays apart from its output.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// want fails the test unless a verb ended with this exit code and said all of these, on either stream.
func (r result) want(t *testing.T, what string, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit code %d, want %d\n%s%s", what, r.code, code, r.stdout, r.stderr)
	}
	contains(t, what, r.stdout+r.stderr, texts...)
}

// unstarted names a cluster whose server is not started by this, and removes its directory.
func unstarted(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { uninstall(t, c) })
	return c
}

// within is a context that ends what is not going to happen.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
