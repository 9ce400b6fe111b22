package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// nobody is a client without any credentials, which trusts whatever it speaks to.
var nobody = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}

// ask returns the status and the body of an answer.
func ask(t *testing.T, method, url string, header http.Header) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(within(t, longest), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	a, err := nobody.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// Without credentials the API tells that it lives, and its version, and nothing else.
func TestAnonymousAtTheAPI(t *testing.T) {
	t.Parallel()
	api := fmt.Sprintf("https://127.0.0.1:%d", shared.cluster.Port)
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/version"} {
		code, _ := ask(t, http.MethodGet, api+path, nil)
		equal(t, path, code, http.StatusOK)
	}
	for _, path := range []string{
		"/", "/api", "/apis", "/api/v1", "/openapi/v2", "/openapi/v3", "/metrics", "/logs", "/debug/pprof/", "/livez/ping", "/configz", "/flagz",
		"/api/v1/namespaces", "/api/v1/nodes", "/api/v1/secrets", "/api/v1/namespaces/default/pods", "/api/v1/nodes/x/proxy/",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles", "/.well-known/openid-configuration", "/openid/v1/jwks", "/no-such-path",
	} {
		code, body := ask(t, http.MethodGet, api+path, nil)
		if code != http.StatusUnauthorized && code != http.StatusForbidden {
			t.Errorf("%s answers anonymous with %d: %.200s", path, code, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		code, _ := ask(t, method, api+"/api/v1/namespaces/default/pods", nil)
		if code != http.StatusUnauthorized && code != http.StatusForbidden {
			t.Errorf("%s of Pods answers anonymous with %d", method, code)
		}
	}
	for name, header := range map[string]http.Header{
		"a made-up token":   {"Authorization": {"Bearer made-up"}},
		"a made-up basic":   {"Authorization": {"Basic YWRtaW46YWRtaW4="}},
		"impersonation":     {"Impersonate-User": {"system:admin"}, "Impersonate-Group": {"system:masters"}},
		"proxy's user name": {"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}},
	} {
		code, body := ask(t, http.MethodGet, api+"/api/v1/secrets", header)
		if code != http.StatusUnauthorized && code != http.StatusForbidden {
			t.Errorf("%s is answered with %d: %.200s", name, code, body)
		}
	}
}

// listeners lists the TCP and UDP ports that the processes of an instance listen on in this machine's network.
func listeners(t *testing.T, pids ...int) []string {
	t.Helper()
	inodes := map[string]bool{}
	for _, pid := range pids {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(fds) == 0 {
			t.Fatalf("read descriptors of process %d: %v", pid, err)
		}
		for _, fd := range fds {
			if link, err := os.Readlink(fd); err == nil {
				inodes[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] = true
			}
		}
	}
	var found []string
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/net/" + proto)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 10 || !inodes[f[9]] || strings.HasPrefix(proto, "tcp") && f[3] != listen {
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, strings.TrimSuffix(proto, "6")+" "+strconv.FormatUint(n, 10))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// The API, the kubelet and the cluster's names are all that an instance listens on. The kubelet answers nobody without
// credentials; names are for everybody who can reach the Service's address, as DNS is.
func TestNothingElseListens(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(script("some", "exec sleep 1000000", "", ""))
	s.ready("some")
	s.start("port-forward", "pod/some", ":80").until("Forwarding from")
	node := o.node()
	kubelet := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	got := listeners(t, o.ServerPID(), o.supervisor())
	want := []string{fmt.Sprintf("tcp %d", o.Port), fmt.Sprintf("tcp %d", kubelet), "tcp 53", "udp 53"}
	slices.Sort(want)
	equal(t, "listening ports", fmt.Sprint(got), fmt.Sprint(want))

	base := "https://" + net.JoinHostPort(nodeIP(t, node), strconv.Itoa(int(kubelet)))
	for _, path := range []string{
		"/", "/pods", "/runningpods/", "/metrics", "/metrics/cadvisor", "/stats/summary", "/configz", "/logs/", "/debug/pprof/", "/spec/",
		"/containerLogs/default/some/main", "/exec/default/some/main?command=id&output=1", "/run/default/some/main?cmd=id",
		"/attach/default/some/main", "/portForward/default/some", "/checkpoint/default/some/main", "/cri/exec/x", "/cri/", "/healthz",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			code, body := ask(t, method, base+path, nil)
			if code != http.StatusUnauthorized && code != http.StatusForbidden {
				t.Errorf("%s %s of the kubelet answers anonymous with %d: %.200s", method, path, code, body)
			}
		}
	}
	code, body := ask(t, http.MethodGet, base+"/pods", http.Header{"Authorization": {"Bearer made-up"}})
	equal(t, "a made-up token at the kubelet: "+body, code, http.StatusUnauthorized)

	// Who is known may yet be refused: this account may do nothing.
	s.kubectl("create", "serviceaccount", "powerless")
	token := strings.TrimSpace(s.kubectl("create", "token", "powerless"))
	code, body = ask(t, http.MethodGet, base+"/pods", http.Header{"Authorization": {"Bearer " + token}})
	equal(t, "a powerless account at the kubelet: "+body, code, http.StatusForbidden)
}

// node is the one node of the cluster, once it is Ready.
func (o *own) node() *corev1.Node {
	o.t.Helper()
	o.space().kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	list, err := o.client.CoreV1().Nodes().List(o.t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		o.t.Fatalf("nodes: %+v, %v", list, err)
	}
	return &list.Items[0]
}

// A node reads what its own Pods refer to, and nothing else; it writes to no other node.
func TestNodeIsConfined(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("create", "secret", "generic", "used", "--from-literal=a=b")
	s.kubectl("create", "secret", "generic", "unused", "--from-literal=a=b")
	s.apply(script("user", "exec sleep 1000000", "volumes: [{name: v, secret: {secretName: used}}]", "volumeMounts: [{name: v, mountPath: /v}]"))
	s.ready("user")
	pod := s.get("user")
	config, err := s.cluster.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	as := func(node string) kubernetes.Interface {
		c := rest.CopyConfig(config)
		c.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated"}}
		client, err := kubernetes.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	ctx := t.Context()
	own, other := as(pod.Spec.NodeName), as("another-node")
	if _, err := own.CoreV1().Secrets(s.name).Get(ctx, "used", metav1.GetOptions{}); err != nil {
		t.Errorf("a node cannot read the Secret of its Pod: %v", err)
	}
	for what, err := range map[string]error{
		"read a Secret of no Pod":       second(own.CoreV1().Secrets(s.name).Get(ctx, "unused", metav1.GetOptions{})),
		"list Secrets":                  second(own.CoreV1().Secrets(s.name).List(ctx, metav1.ListOptions{})),
		"read another's Secret":         second(other.CoreV1().Secrets(s.name).Get(ctx, "used", metav1.GetOptions{})),
		"read another's token's basis":  second(other.CoreV1().ConfigMaps(s.name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})),
		"delete another's Pod":          other.CoreV1().Pods(s.name).Delete(ctx, "user", metav1.DeleteOptions{}),
		"delete another node":           other.CoreV1().Nodes().Delete(ctx, pod.Spec.NodeName, metav1.DeleteOptions{}),
		"label another node":            patchNode(ctx, other, pod.Spec.NodeName, `{"metadata":{"labels":{"a":"b"}}}`),
		"give itself a protected label": patchNode(ctx, own, pod.Spec.NodeName, `{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`),
		"make an ordinary Pod":          second(own.CoreV1().Pods(s.name).Create(ctx, marked("mine"), metav1.CreateOptions{})),
		"read roles":                    second(own.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: a node is not refused: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func patchNode(ctx context.Context, client kubernetes.Interface, node, patch string) error {
	_, err := client.CoreV1().Nodes().Patch(ctx, node, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	return err
}

// The roles that users are given: view looks and sees no Secrets, edit changes, admin gives roles.
func TestUserRoles(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for _, role := range []string{"view", "edit", "admin"} {
		s.kubectl("create", "rolebinding", role, "--clusterrole="+role, "--user=user-"+role)
	}
	for _, test := range []struct {
		user, verb, what string
		may              bool
	}{
		{"view", "get", "pods", true}, {"view", "list", "configmaps", true}, {"view", "get", "pods/log", true},
		{"view", "get", "secrets", false}, {"view", "create", "pods", false}, {"view", "create", "pods/exec", false},
		{"edit", "create", "pods", true}, {"edit", "get", "secrets", true}, {"edit", "create", "pods/exec", true}, {"edit", "delete", "configmaps", true},
		{"edit", "create", "rolebindings", false}, {"edit", "create", "roles", false},
		{"admin", "create", "rolebindings", true}, {"admin", "create", "roles", true}, {"admin", "update", "resourcequotas", false},
		{"admin", "get", "nodes", false}, {"nobody", "get", "pods", false},
	} {
		r := s.try("auth", "can-i", test.verb, test.what, "--as=user-"+test.user)
		want := map[bool]string{true: "yes", false: "no"}[test.may]
		equal(t, fmt.Sprintf("may %s %s %s", test.user, test.verb, test.what), strings.Fields(r.stdout)[0], want)
		equal(t, "exit code", r.code, map[bool]int{true: 0, false: 1}[test.may])
	}
	equal(t, "may view look elsewhere", strings.Fields(s.try("auth", "can-i", "get", "pods", "--as=user-view", "-n", "default").stdout)[0], "no")
	s.fails([]string{"get", "secrets", "--as=user-view"},
		`secrets is forbidden: User "user-view" cannot list resource "secrets" in API group "" in the namespace "`+s.name+`"`)
	// Nobody gives what they do not have.
	s.fails([]string{"create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user=user-admin", "--as=user-admin"},
		"is attempting to grant RBAC permissions not currently held")
	s.kubectl("get", "secrets", "--as=anyone", "--as-group=system:masters")
}

// Keys, and whatever holds a secret, are root's alone.
func TestFilesOfTheDataDirectory(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const secret = "a-value-that-is-nowhere-else-5d41402abc4b"
	s.kubectl("create", "secret", "generic", "s", "--from-literal=key="+secret)
	dir := s.cluster.Instance.DataDir
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode of the data directory", info.Mode().Perm(), 0o700)
	for _, file := range []string{"admin.kubeconfig", "peapod.json", "server.lock"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "mode of "+file, info.Mode().Perm(), 0o600)
	}
	keys := 0
	for _, below := range []string{"pki", "store"} {
		err := filepath.WalkDir(filepath.Join(dir, below), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return nil // Compacted away.
			}
			if d.IsDir() {
				equal(t, "mode of "+path, info.Mode().Perm(), 0o700)
				return nil
			}
			if d.Name() == "LOCK" { // It is empty.
				return nil
			}
			equal(t, "mode of "+path, info.Mode().Perm(), 0o600)
			if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte("PRIVATE KEY")) {
				keys++
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if keys == 0 {
		t.Error("no key was found")
	}
	run, err := os.Stat(s.cluster.Instance.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode of the run directory", run.Mode().Perm(), 0o711) // the root of a user namespace passes through; what is in it is closed
	log, err := os.ReadFile(s.cluster.Log.File)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte(secret)) {
		t.Error("the server's log holds a Secret's value")
	}
}
