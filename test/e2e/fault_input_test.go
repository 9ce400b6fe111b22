package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/test/e2e/cluster"
)

// What cannot be accepted is refused with the reason, and leaves nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	apply := []string{"apply", "-f", "-"}
	s.failsIn("this: is: not: yaml", apply, "yaml: mapping values are not allowed in this context")
	s.failsIn("just text", apply, "invalid object to validate")
	s.failsIn("{\"apiVersion\": \"v1\", \"kind\": ", apply, "error")
	s.failsIn(script("x", "true", "", "imge: y"), apply, `unknown field "spec.containers[0].imge"`)
	s.failsIn(script("x", "true", "nodeName: [1]", ""), apply, "nodeName")
	s.failsIn(script("x", "true", "restartPolicy: Sometimes", ""), apply, `spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`)
	s.failsIn(script("Not_A_Name", "true", "", ""), apply, `metadata.name: Invalid value: "Not_A_Name"`, "a lowercase RFC 1123 subdomain")
	s.failsIn(script("x", "true", "", "volumeMounts: [{name: none, mountPath: /x}]"), apply, `spec.containers[0].volumeMounts[0].name: Not found: "none"`)

	big := filepath.Join(t.TempDir(), "big")
	for _, test := range []struct {
		bytes int
		text  string
	}{
		{1<<20 + 1, "Too long: may not be more than 1048576 bytes"},
		{4 << 20, "Request entity too large: limit is 3145728"},
	} {
		if err := os.WriteFile(big, []byte(strings.Repeat("x", test.bytes)), 0o600); err != nil {
			t.Fatal(err)
		}
		s.fails([]string{"create", "configmap", "big", "--from-file=" + big}, test.text)
	}
	if err := os.WriteFile(big, []byte(strings.Repeat("x", 1<<20-100)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.kubectl("create", "configmap", "big", "--from-file="+big)
	s.fails([]string{"create", "configmap", "big"}, `configmaps "big" already exists`)
	s.fails([]string{"create", "namespace", s.name}, `namespaces "`+s.name+`" already exists`)
	s.fails([]string{"get", "pod", "x"}, `pods "x" not found`)
	equal(t, "Pods", s.kubectl("get", "pods", "-o", "name"), "")
}

func TestBadImageReferences(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	bad := func(name, image string) string {
		return strings.ReplaceAll(script(name, "true", "", ""), "image: busybox", "image: '"+image+"'")
	}
	s.apply(bad("upper", "Not/Valid:Tag") + bad("double", "a::b") + bad("absent", "no-such-image:1"))
	for pod, image := range map[string]string{"upper": "Not/Valid:Tag", "double": "a::b"} {
		contains(t, "message", s.waiting(pod, "main", "InvalidImageName"), `Failed to apply default image tag "`+image+`"`)
		s.event(pod, "InspectFailed", `Failed to apply default image tag "`+image+`"`)
	}
	s.waiting("absent", "main", "ErrImagePull", "ImagePullBackOff")
	s.event("absent", "Failed", `Failed to pull image "no-such-image:1"`)
	contains(t, "message", s.waiting("absent", "main", "ImagePullBackOff"), `Back-off pulling image "no-such-image:1"`)
}

// A Pod whose ConfigMap or Secret is not there waits, says why, and starts when it comes.
func TestMissingVolumesAndReferences(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("map", "cat /m/key; echo; sleep 1000000", "volumes: [{name: m, configMap: {name: later-map}}]", "volumeMounts: [{name: m, mountPath: /m}]") +
		script("secret", "cat /m/key; echo; sleep 1000000", "volumes: [{name: m, secret: {secretName: later-secret}}]", "volumeMounts: [{name: m, mountPath: /m}]") +
		script("env", "echo $KEY; sleep 1000000", "", "env: [{name: KEY, valueFrom: {secretKeyRef: {name: later-secret, key: key}}}]") +
		script("env-from", "echo $key; sleep 1000000", "", "envFrom: [{configMapRef: {name: later-map}}]") +
		script("host", "true", "volumes: [{name: h, hostPath: {path: /nonexistent-path, type: Directory}}]", "volumeMounts: [{name: h, mountPath: /h}]") +
		script("optional", "ls -A /m; sleep 1000000", "volumes: [{name: m, configMap: {name: never, optional: true}}]", "volumeMounts: [{name: m, mountPath: /m}]"))
	s.ready("optional")
	s.event("map", "FailedMount", `MountVolume.SetUp failed for volume "m" : configmap "later-map" not found`)
	s.event("secret", "FailedMount", `MountVolume.SetUp failed for volume "m" : secret "later-secret" not found`)
	s.event("host", "FailedMount", `hostPath type check failed: /nonexistent-path is not a directory`)
	contains(t, "message", s.waiting("env", "main", "CreateContainerConfigError"), `secret "later-secret" not found`)
	contains(t, "message", s.waiting("env-from", "main", "CreateContainerConfigError"), `configmap "later-map" not found`)
	contains(t, "get pods", s.kubectl("get", "pods"), "CreateContainerConfigError", "ContainerCreating")

	s.kubectl("create", "configmap", "later-map", "--from-literal=key=from map")
	s.kubectl("create", "secret", "generic", "later-secret", "--from-literal=key=from secret")
	for pod, text := range map[string]string{"map": "from map", "env-from": "from map", "secret": "from secret", "env": "from secret"} {
		s.ready(pod)
		s.start("logs", "-f", pod).until(text)
		equal(t, "restarts of "+pod, only(t, s.get(pod)).RestartCount, 0)
	}
	s.kubectl("delete", "pod", "host")
}

// A full disk: writes are refused with the reason, what was there stays, containers run on, and all goes on when there is space.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	c, err := cluster.New(cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("peapod-test", disk, "tmpfs", 0, "size=192m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	if c.Instance, err = instance.At(filepath.Join(disk, "data")); err != nil {
		t.Fatal(err)
	}
	o := &own{Cluster: c, t: t}
	t.Cleanup(func() {
		if err := c.Uninstall(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(c.Instance.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := shared.registry.Mirror(c.Instance.DataDir); err != nil {
		t.Fatal(err)
	}
	o.restart()
	o.client = clientOf(t, c)
	s := o.space()
	s.apply(script("before", "exec sleep 1000000", "", ""))
	s.ready("before")
	container := only(t, s.get("before")).ContainerID

	for i := range takenBefore {
		s.kubectl("create", "configmap", fmt.Sprintf("map-%d", i))
	}
	fill(t, filepath.Join(disk, "filler"))
	kept := o.writeUntilRefused(s)
	t.Logf("%d objects were taken before the disk was full", kept)
	s.kubectl("get", "configmaps") // Reading goes on.
	s.kubectl("exec", "before", "--", "true")
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s.kubectl("wait", "--for=condition=Ready", "pod/before", "--timeout=60s")
	s.kubectl("create", "configmap", "after")
	s.apply(script("after", "exec sleep 1000000", "", "imagePullPolicy: IfNotPresent"))
	s.ready("after")

	o.killServer()
	o.restart()
	s.client = clientOf(t, c)
	s.wantMaps(kept)
	s.ready("before", "after")
	equal(t, "the container", only(t, s.get("before")).ContainerID, container)
	equal(t, "its restarts", only(t, s.get("before")).RestartCount, 0)
}

// wantMaps fails the test unless ConfigMaps map-0 to map-(n-1) are there.
func (s *space) wantMaps(n int) {
	s.t.Helper()
	list, err := s.client.CoreV1().ConfigMaps(s.name).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range list.Items {
		there[m.Name] = true
	}
	for i := range n {
		if name := fmt.Sprintf("map-%d", i); !there[name] {
			s.t.Errorf("the creation of %s was acknowledged, and it is not there", name)
		}
	}
}

// fill writes a file until its disk is full.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// takenBefore is how many ConfigMaps there are when the disk fills up.
const takenBefore = 3

// writeUntilRefused makes further ConfigMaps map-N until one is refused for the lack of space, and returns how many there are.
func (o *own) writeUntilRefused(s *space) int {
	o.t.Helper()
	for i := takenBefore; i < 10000; i++ {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("map-%d", i)}, Data: map[string]string{"x": strings.Repeat("x", 1<<17)}}
		if _, err := o.client.CoreV1().ConfigMaps(s.name).Create(within(o.t, longest), m, metav1.CreateOptions{}); err != nil {
			o.t.Logf("refused: %v", err)
			contains(o.t, "the error of a full disk", err.Error(), "no space left on device")
			return i
		}
	}
	o.t.Fatal("a full disk took all")
	return 0
}
