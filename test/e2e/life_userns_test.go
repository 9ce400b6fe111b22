package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/kernelversion"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// needUsers skips a test where the kernel is too old for user namespaces of Pods: it cannot map the IDs of tmpfs.
func needUsers(t *testing.T) {
	t.Helper()
	enough, err := kernelversion.GreaterEqualThan(kernelversion.KernelVersion{Kernel: 6, Major: 3})
	if err != nil {
		t.Fatal(err)
	}
	if !enough {
		t.Skip("user namespaces of Pods need Linux 6.3")
	}
}

// rangeOf is where the IDs of a Pod with hostUsers: false begin on the machine. It fails the test unless the container sees 65536 from 0.
func (s *space) rangeOf(pod string) int {
	s.t.Helper()
	var first string
	for _, file := range []string{"uid_map", "gid_map"} {
		f := strings.Fields(s.kubectl("exec", pod, "-c", "main", "--", "cat", "/proc/self/"+file))
		if len(f) != 3 || f[0] != "0" || f[2] != "65536" || (first != "" && f[1] != first) {
			s.t.Fatalf("%s of Pod %s is %q", file, pod, f)
		}
		first = f[1]
	}
	n, err := strconv.Atoi(first)
	if err != nil || n < 65536 || n%65536 != 0 {
		s.t.Fatalf("the IDs of Pod %s begin at %q", pod, first)
	}
	return n
}

// userOnMachine is who the first process of the Pod's container main is to the machine.
func (s *space) userOnMachine(c *cluster.Cluster, pod string) int {
	s.t.Helper()
	id := strings.TrimPrefix(only(s.t, s.get(pod)).ContainerID, "peapod://")
	entries, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range entries {
		group, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(group), id) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		if err != nil {
			continue // it has just ended
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				uid, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					s.t.Fatal(err)
				}
				return uid
			}
		}
	}
	s.t.Fatalf("container %s of Pod %s has no process", id, pod)
	return 0
}

// A Pod with users of its own has all that another has: volumes of every kind with the owners that its spec says, a group for
// them, init containers, probes, logs, exec, attach, forwarded ports, messages, a shared PID namespace, containers to debug.
func TestUserNamespace(t *testing.T) {
	needUsers(t)
	t.Parallel()
	s := newSpace(t)
	handlers := s.kubectl("get", "nodes", "-o", `jsonpath={range .items[0].status.runtimeHandlers[*]}{.name}={.features.userNamespaces} {end}`)
	contains(t, "handlers of the node", " "+handlers, " =true ", " peapod=true ")

	host := filepath.Join(t.TempDir(), "host")
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.apply(claimOf("data") + `apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {key: from config}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {key: from secret}
---
` + script("mapped", "echo to the log; cat /config/key; echo; cat /secret/key; echo; exec sleep 1000000", fmt.Sprintf(`hostUsers: false
securityContext: {fsGroup: 3000, supplementalGroups: [4000]}
volumes:
- {name: disk, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
- {name: config, configMap: {name: config, defaultMode: 0400}}
- {name: secret, secret: {secretName: secret, defaultMode: 0400}}
- {name: down, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
- {name: host, hostPath: {path: %s}}
- {name: data, persistentVolumeClaim: {claimName: data}}
initContainers:
- {name: init, image: busybox, command: [sh, -c, "id -u > /disk/init"], volumeMounts: [{name: disk, mountPath: /disk}]}
`, host), `readinessProbe: {exec: {command: [test, -r, /config/key]}, periodSeconds: 1}
lifecycle: {postStart: {exec: {command: [touch, /disk/hook]}}}
volumeMounts:
- {name: disk, mountPath: /disk}
- {name: memory, mountPath: /memory}
- {name: config, mountPath: /config}
- {name: secret, mountPath: /secret}
- {name: down, mountPath: /down}
- {name: host, mountPath: /host}
- {name: host, mountPath: /sub, subPath: sub}
- {name: data, mountPath: /data}
`))
	s.ready("mapped")
	first := s.rangeOf("mapped")
	equal(t, "root of the container on the machine", s.userOnMachine(s.cluster, "mapped"), first)
	contains(t, "log", s.logged("^from secret", "mapped", "-c", "main"), "to the log\n", "from config")
	sh := func(script string) string { return s.kubectl("exec", "mapped", "-c", "main", "--", "sh", "-c", script) }
	equal(t, "user and groups", sh("id -u; id -G"), "0\n0 3000 4000\n")
	equal(t, "owners", sh("stat -c '%u:%g %n' / /etc /etc/hosts /etc/hostname /etc/resolv.conf /dev/termination-log /dev/shm /disk /disk/hook /memory /config/..data/key /secret/..data/key /down/..data/name /var/run/secrets/kubernetes.io/serviceaccount/..data/token /host /sub /data"), `0:0 /
0:0 /etc
0:0 /etc/hosts
0:0 /etc/hostname
0:0 /etc/resolv.conf
0:0 /dev/termination-log
0:0 /dev/shm
0:3000 /disk
0:3000 /disk/hook
0:3000 /memory
0:3000 /config/..data/key
0:3000 /secret/..data/key
0:3000 /down/..data/name
0:3000 /var/run/secrets/kubernetes.io/serviceaccount/..data/token
0:0 /host
0:0 /sub
0:3000 /data
`)
	equal(t, "what the init container wrote", sh("cat /disk/init"), "0\n")
	// To the machine a file in a volume belongs to the same number as to the Pod, so that another Pod can go on with it.
	sh("for v in /disk /memory /host /sub /data; do touch $v/mine && chown 1234:5678 $v/mine; done; touch /host/roots")
	for file, want := range map[string]string{"mine": "1234:5678", "sub/mine": "1234:5678", "roots": "0:0"} {
		equal(t, "owner on the machine of "+file, ownerOf(t, filepath.Join(host, file)), want)
	}
	// Its own files belong to its own IDs.
	sh("touch /etc/mine; chown 7:8 /etc/mine; passwd -d root >/dev/null; stat -c %u:%g /etc/mine | grep -x 7:8")
	// A ConfigMap's change arrives.
	s.kubectl("patch", "configmap", "config", "-p", `{"data":{"key":"changed"}}`)
	sh("until grep -x changed /config/key; do sleep 0.1; done")

	s.kubectl("debug", "mapped", "--image=busybox", "--target=main", "-q", "-c", "debugger", "--profile=general", "--", "sh", "-c", "cut -c 1-40 /proc/self/uid_map; ps")
	contains(t, "log of the debugger", s.loggedAtEnd("mapped", "debugger"), strconv.Itoa(first), "sleep 1000000")

	s.apply(echoMapped)
	s.ready("echo")
	_, local := s.forward("echo", ":8080")
	r, err := http.Get("http://" + local["8080"])
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	equal(t, "status of what answers behind a forwarded port", r.StatusCode, http.StatusOK)

	s.apply(script("shared", `read word; echo got $word; echo the end > /dev/termination-log; exit 3`, "hostUsers: false\nshareProcessNamespace: true\nrestartPolicy: Never", "stdin: true\nstdinOnce: true\nsecurityContext: {runAsUser: 65534, runAsGroup: 65535}"))
	s.running("shared", "main")
	cmd := s.command("attach", "-i", "shared")
	cmd.Stdin = strings.NewReader("hello\n")
	s.run(cmd)
	end := only(t, s.phase("shared", corev1.PodFailed)).State.Terminated
	if end == nil || end.ExitCode != 3 || end.Message != "the end\n" {
		t.Errorf("the end is %+v", end)
	}
	equal(t, "log", s.kubectl("logs", "shared"), "got hello\n")
}

// echoMapped answers over HTTP, as a user that is not root.
const echoMapped = `apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000}
  containers:
  - name: main
    image: peapod.local/hello:latest
    imagePullPolicy: IfNotPresent
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`

// ownerOf is to whom a file belongs on this machine.
func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatalf("look at %s: %v", path, err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// loggedAtEnd waits for the end of a debugging container and returns its log.
func (s *space) loggedAtEnd(pod, container string) string {
	s.t.Helper()
	s.awaitPod(pod, "end of container "+container, func(p *corev1.Pod) bool {
		for _, st := range p.Status.EphemeralContainerStatuses {
			if st.Name == container && st.State.Terminated != nil {
				return true
			}
		}
		return false
	})
	return s.kubectl("logs", pod, "-c", container)
}

// Root in a Pod with users of its own is nobody on the machine, whatever the Pod asks for besides.
func TestUserNamespaceAttacks(t *testing.T) {
	needUsers(t)
	t.Parallel()
	s := newSpace(t)
	s.apply(script("attacker", "exec sleep 1000000", "hostUsers: false", `securityContext: {privileged: true, procMount: Unmasked}`) +
		script("neighbour", "exec sleep 1000000", "hostUsers: false", ""))
	s.ready("attacker", "neighbour")
	mine, theirs := s.rangeOf("attacker"), s.rangeOf("neighbour")
	if mine == theirs {
		t.Errorf("both Pods have the IDs from %d", mine)
	}
	equal(t, "root of a privileged container on the machine", s.userOnMachine(s.cluster, "attacker"), mine)
	for name, attack := range map[string]string{
		"make a node":            "mknod /tmp/disk b 254 0",
		"read a disk":            "for d in /dev/vda /dev/sda /dev/nvme0n1; do [ -b $d ] && head -c 1 $d && exit; done; false",
		"set a sysctl":           `f=/proc/sys/kernel/core_pattern; was=$(cat $f); echo "$was" > $f`,
		"read kernel memory":     "head -c 16 /proc/kcore",
		"load a module":          "insmod /bin/busybox",
		"map the machine's":      "unshare -U sh -c 'echo 0 0 1 > /proc/self/uid_map'",
		"change a cgroup":        "for f in $(find /sys/fs/cgroup -name cgroup.procs); do mkdir ${f%/*}/evil && exit; done; false",
		"look at the machine's":  "nsenter -t 1 -m ls " + s.cluster.Instance.DataDir,
		"read the machine's log": "dmesg",
	} {
		if r := s.try("exec", "attacker", "--", "sh", "-c", attack); r.code == 0 {
			t.Errorf("%s: it worked: %s%s", name, r.stdout, r.stderr)
		}
	}
	// What it may: everything that is its own.
	s.kubectl("exec", "attacker", "--", "sh", "-c", "mkdir -p /m && mount -t tmpfs none /m && touch /m/x && hostname renamed && ip addr add 192.0.2.99/32 dev lo")
}

// What cannot be with users of the Pod's own is refused, and the restricted profile leaves root to such Pods.
func TestUserNamespaceRules(t *testing.T) {
	needUsers(t)
	t.Parallel()
	s := newSpace(t)
	for field, text := range map[string]string{
		"hostNetwork: true": "spec.hostNetwork: Forbidden: when `hostUsers` is false",
		"hostPID: true":     "spec.hostPID: Forbidden: when `hostUsers` is false",
		"hostIPC: true":     "spec.hostIPC: Forbidden: when `hostUsers` is false",
	} {
		s.failsIn(script("refused", "true", "hostUsers: false\n"+field, ""), []string{"apply", "-f", "-"}, text)
	}
	s.failsIn(script("refused", "true", "hostUsers: false\nvolumes: [{name: d, persistentVolumeClaim: {claimName: c}}]", "volumeDevices: [{name: d, devicePath: /dev/x}]"),
		[]string{"apply", "-f", "-"}, "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false")

	s.apply(script("beyond", "true", "hostUsers: false\nsecurityContext: {runAsUser: 70000}", "") +
		script("sysfs", "true", "hostUsers: false\nrestartPolicy: Never\nvolumes: [{name: v, hostPath: {path: /sys/kernel}}]", "volumeMounts: [{name: v, mountPath: /v}]"))
	contains(t, "message", s.waiting("beyond", "main", "CreateContainerError"), "user 70000 is not mapped in the user namespace, which has users 0-65535")
	end := only(t, s.phase("sysfs", corev1.PodFailed)).State.Terminated
	if end == nil || end.Reason != "StartError" || !strings.Contains(end.Message, "MOUNT_ATTR_IDMAP on /sys/kernel") {
		t.Errorf("a volume whose IDs cannot be mapped ends as %+v", end)
	}

	const restricted = "seccompProfile: {type: RuntimeDefault}"
	const container = "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, runAsUser: 0}"
	s.kubectl("label", "namespace", s.name, "pod-security.kubernetes.io/enforce=restricted")
	s.failsIn(script("root", "true", "securityContext: {"+restricted+"}", container), []string{"apply", "-f", "-"}, "violates PodSecurity", "runAsNonRoot != true", "runAsUser=0")
	s.apply(script("root", "exec sleep 1000000", "hostUsers: false\nsecurityContext: {"+restricted+"}", container))
	s.ready("root")
	s.rangeOf("root")
}

// Containers and their IDs outlive the server's death, the next server goes on with them, and all of it goes with the Pods.
func TestUserNamespaceOutlivesServer(t *testing.T) {
	needUsers(t)
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	before := o.inventory()
	s.apply(script("stays", "[ -p /v/end ] || mkfifo /v/end; read word < /v/end; exit 1", "hostUsers: false\nvolumes: [{name: v, emptyDir: {}}]", "volumeMounts: [{name: v, mountPath: /v}]") +
		script("goes", "exec sleep 1000000", "hostUsers: false", ""))
	s.ready("stays", "goes")
	ranges := map[string]int{"stays": s.rangeOf("stays"), "goes": s.rangeOf("goes")}
	id := only(t, s.get("stays")).ContainerID
	goes := s.get("goes")

	o.killServer()
	o.restart()
	o.awaitKubelet()
	s.ready("stays", "goes")
	equal(t, "container after the server's death", only(t, s.get("stays")).ContainerID, id)
	equal(t, "IDs after the server's death", s.rangeOf("stays"), ranges["stays"])
	s.kubectl("exec", "stays", "--", "touch", "/v/after")

	// One that ends is started again in the same sandbox, with the same IDs.
	s.kubectl("exec", "stays", "--", "sh", "-c", "echo now > /v/end")
	s.awaitPod("stays", "another container", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].RestartCount == 1 && st[0].State.Running != nil
	})
	equal(t, "IDs of the next container", s.rangeOf("stays"), ranges["stays"])
	s.kubectl("exec", "stays", "--", "ls", "/v/after")

	// What a Pod that went has left when the server dies goes with the next one, its IDs as well.
	if err := o.client.CoreV1().Pods(s.name).Delete(t.Context(), "goes", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	o.killServer()
	o.restart()
	s.kubectl("delete", "pod", "stays", "--now")
	o.awaitGone(s.name, "goes", goes.UID)
	o.wantInventory(before)
}
