package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dockerDefaults are the capabilities that a container has unless its Pod says otherwise.
const dockerDefaults = "00000000a80425fb"

// status reads the fields of /proc/self/status of a process that kubectl exec starts.
func (s *space) procStatus(pod string) map[string]string {
	s.t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(s.kubectl("exec", pod, "--", "cat", "/proc/1/status")) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[k] = strings.TrimSpace(v)
		}
	}
	return fields
}

// What confines a container, as the kernel tells it from within.
func TestConfinement(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const forever = "exec sleep 1000000"
	s.apply(script("plain", forever, "", "") +
		script("strict", forever, `securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000], seccompProfile: {type: RuntimeDefault}}
volumes: [{name: d, emptyDir: {}}]`, `securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, capabilities: {drop: [ALL]}}
volumeMounts: [{name: d, mountPath: /d}]`) +
		script("added", forever, "", "securityContext: {capabilities: {add: [NET_ADMIN], drop: [CHOWN]}, seccompProfile: {type: Unconfined}}") +
		script("privileged", forever, "", "securityContext: {privileged: true}") +
		script("root-refused", forever, "securityContext: {runAsNonRoot: true}", ""))
	s.ready("plain", "strict", "added", "privileged")

	plain := s.procStatus("plain")
	equal(t, "effective capabilities", plain["CapEff"], dockerDefaults)
	equal(t, "bounding set", plain["CapBnd"], dockerDefaults)
	equal(t, "seccomp", plain["Seccomp"], "2")
	equal(t, "no new privileges", plain["NoNewPrivs"], "0")
	for _, masked := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"} {
		out := s.kubectl("exec", "plain", "--", "sh", "-c", fmt.Sprintf("test ! -e %[1]s || head -c 1 %[1]s | wc -c", masked))
		if o := strings.TrimSpace(out); o != "" && o != "0" {
			t.Errorf("%s gives %s bytes", masked, o)
		}
	}
	for _, file := range []string{"/proc/sys/kernel/domainname", "/sys/kernel/profiling"} {
		s.fails([]string{"exec", "plain", "--", "sh", "-c", "echo 1 > " + file}, "Read-only file system")
	}
	writable := s.kubectl("exec", "plain", "--", "sh", "-c", "find /sys/fs/cgroup -mindepth 1 -type d | while read d; do mkdir $d/x 2>/dev/null && echo $d; done; true")
	equal(t, "cgroups that the container may change", writable, "")
	s.fails([]string{"exec", "plain", "--", "mount", "-t", "tmpfs", "none", "/tmp"}, "")
	s.fails([]string{"exec", "plain", "--", "ls", "/dev/sda"}, "")
	s.kubectl("exec", "plain", "--", "touch", "/root-is-writable")

	strict := s.procStatus("strict")
	equal(t, "effective capabilities", strict["CapEff"], "0000000000000000")
	equal(t, "bounding set", strict["CapBnd"], "0000000000000000")
	equal(t, "no new privileges", strict["NoNewPrivs"], "1")
	equal(t, "user", strings.Fields(strict["Uid"])[0], "1000")
	equal(t, "group", strings.Fields(strict["Gid"])[0], "2000")
	contains(t, "groups", strict["Groups"], "3000", "4000")
	s.fails([]string{"exec", "strict", "--", "touch", "/x"}, "Read-only file system")
	s.kubectl("exec", "strict", "--", "touch", "/d/x")
	equal(t, "group of a new file", s.kubectl("exec", "strict", "--", "stat", "-c", "%u:%g", "/d/x"), "1000:3000\n")

	added := s.procStatus("added")
	equal(t, "effective capabilities", added["CapEff"], "00000000a80435fa")
	equal(t, "seccomp", added["Seccomp"], "0")

	privileged := s.procStatus("privileged")
	host, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(host)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			equal(t, "capabilities of a privileged container", privileged["CapEff"], strings.TrimSpace(v))
		}
	}
	s.kubectl("exec", "privileged", "--", "mount", "-t", "tmpfs", "none", "/tmp")

	message := s.waiting("root-refused", "main", "CreateContainerConfigError")
	contains(t, "message", message, "container has runAsNonRoot and image will run as root")
}

// The namespaces that a Pod may share with its node or among its containers.
func TestSharedNamespaces(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("net", "exec sleep 1000000", "hostNetwork: true", "") +
		script("pid", "exec sleep 1000000", "hostPID: true", "") +
		script("ipc", "exec sleep 1000000", "hostIPC: true", "") +
		script("alone", "exec sleep 1000000", "", "") +
		strings.TrimSuffix(script("shared", "exec sleep 111111111", "shareProcessNamespace: true", ""), "\n---\n") + `
  - {name: second, image: busybox, command: [sleep, '222222222']}`)
	s.ready("net", "pid", "ipc", "alone", "shared")
	for pod, kind := range map[string]string{"net": "net", "pid": "pid", "ipc": "ipc"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		read := []string{"exec", pod, "--", "readlink", "/proc/self/ns/" + kind}
		equal(t, kind+" namespace of a Pod that shares the node's", strings.TrimSpace(s.kubectl(read...)), own)
		read[1] = "alone"
		if got := strings.TrimSpace(s.kubectl(read...)); got == own {
			t.Errorf("a Pod that does not ask for it has the node's %s namespace", kind)
		}
	}
	p := s.get("net")
	equal(t, "address of a Pod on the node's network", p.Status.PodIP, p.Status.HostIP)
	contains(t, "processes", s.kubectl("exec", "shared", "-c", "main", "--", "ps"), "sleep 111111111", "sleep 222222222")
	s.kubectl("exec", "shared", "-c", "main", "--", "sh", "-c", "kill -9 $(ps | awk '/sleep 222222222/ && !/awk/ {print $1}')")
	s.awaitPod("shared", "restarted", func(p *corev1.Pod) bool {
		for _, st := range p.Status.ContainerStatuses {
			if st.Name == "second" && st.RestartCount == 1 {
				return true
			}
		}
		return false
	})
	equal(t, "processes alone", s.kubectl("exec", "alone", "--", "sh", "-c", "ls -d /proc/[0-9]* | head -n 1"), "/proc/1\n")
}

// Limits are in the container's cgroup, in the files of either version.
func TestLimitsInCgroup(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("limited", "exec sleep 1000000", "", "resources: {requests: {cpu: 100m}, limits: {cpu: 500m, memory: 64Mi}}"))
	s.ready("limited")
	own, _ := s.groupOf(only(t, s.get("limited")))
	equal(t, "limit of memory in the cgroup", own.memory, 64<<20)
	equal(t, "limit of CPU in the cgroup", own.quota, 50_000)
}

// claims are what a service account's token says.
type claims struct {
	Audience   []string `json:"aud"`
	Expires    int64    `json:"exp"`
	Issued     int64    `json:"iat"`
	Subject    string   `json:"sub"`
	Kubernetes struct {
		Namespace string
		Pod       struct{ Name, UID string }
		WarnAfter int64
	} `json:"kubernetes.io"`
}

func readClaims(t *testing.T, token string) claims {
	t.Helper()
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// A program in a Pod speaks to the API with what is mounted for it: bound to the Pod, for a bounded time, with the rights that
// its service account has, and not after the Pod has gone.
func TestTokenInPod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	s.kubectl("create", "serviceaccount", "worker")
	s.kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
	s.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+s.name+":worker")
	manifest := strings.ReplaceAll(script("caller", "exec sleep 1000000", `serviceAccountName: worker
volumes:
- name: short
  projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}`,
		"volumeMounts: [{name: short, mountPath: /short}]"), "image: busybox", "image: gentledev10/ubuntu-curl")
	s.apply(manifest + script("without", "exec sleep 1000000", "automountServiceAccountToken: false", ""))
	s.ready("caller", "without")
	p := s.get("caller")
	api := fmt.Sprintf("https://%s:%d/", p.Status.HostIP, s.cluster.Port)
	call := func(token, path string) string {
		return s.kubectl("exec", "caller", "--", "sh", "-c", fmt.Sprintf(
			`curl -sS -o /tmp/body -w '%%{http_code} ' --cacert %s/ca.crt -H "Authorization: Bearer $(cat %s)" %s%s; cat /tmp/body`, dir, token, api, path))
	}
	path := "api/v1/namespaces/" + s.name + "/"
	contains(t, "what it may", call(dir+"/token", path+"configmaps"), "200 ", "kube-root-ca.crt")
	contains(t, "what it may not", call(dir+"/token", path+"secrets"), "403 ",
		`User \"system:serviceaccount:`+s.name+`:worker\" cannot list resource \"secrets\"`)
	contains(t, "a token for others", call("/short/token", path+"configmaps"), "401 ")
	equal(t, "namespace", s.kubectl("exec", "caller", "--", "cat", dir+"/namespace"), s.name)

	token := s.kubectl("exec", "caller", "--", "cat", dir+"/token")
	c := readClaims(t, token)
	equal(t, "subject", c.Subject, "system:serviceaccount:"+s.name+":worker")
	equal(t, "bound to Pod", c.Kubernetes.Pod.UID, string(p.UID))
	// As in Kubernetes, the token is replaced within the hour, and those who do not read it again are only warned for a year.
	if life := time.Duration(c.Kubernetes.WarnAfter-c.Issued) * time.Second; life != 3607*time.Second {
		t.Errorf("the token is to be replaced after %v", life)
	}
	if life := time.Duration(c.Expires-c.Issued) * time.Second; life > 366*24*time.Hour {
		t.Errorf("the token lives for %v", life)
	}
	short := readClaims(t, s.kubectl("exec", "caller", "--", "cat", "/short/token"))
	equal(t, "life of the short token in seconds", strconv.FormatInt(short.Expires-short.Issued, 10), "600")
	equal(t, "audience", strings.Join(short.Audience, ","), "vault")
	s.fails([]string{"exec", "without", "--", "ls", dir}, "No such file")

	ca, err := s.client.CoreV1().ConfigMaps(s.name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(ca.Data["ca.crt"]))
	if block == nil {
		t.Fatalf("ca.crt is no PEM: %q", ca.Data["ca.crt"])
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		t.Error(err)
	}
	s.kubectl("delete", "pod", "caller")
	r := s.try("--token="+strings.TrimSpace(token), "--kubeconfig=/dev/null", "--server="+fmt.Sprintf("https://127.0.0.1:%d", s.cluster.Port),
		"--insecure-skip-tls-verify", "get", "configmaps")
	if r.code == 0 || !strings.Contains(r.stderr, "Unauthorized") && !strings.Contains(r.stderr, "logged in") {
		t.Errorf("the token of a Pod that has gone: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
