package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// A node that joined before runs its static Pods while no server can be reached, and shows them once there is one again.
func TestStaticPodsWithoutAServer(t *testing.T) {
	t.Parallel()
	archives, err := cluster.MakeArchives(t.Context())
	must(t, err)
	w := newWorld(t, 1)
	w.second.do("image", "import", archives.File("busybox"))
	w.second.end(unix.SIGTERM)
	w.server.end(unix.SIGTERM)

	manifests, out := t.TempDir(), t.TempDir()
	written, err := fsnotify.NewWatcher()
	must(t, err)
	defer written.Close()
	must(t, written.Add(out))
	must(t, os.WriteFile(filepath.Join(manifests, "own.yaml"), []byte(`
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo began >> /out/began; sleep 1000000"]
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: `+out+`}}]
`), 0o600))
	w.second.launch("agent", "--node-name", "two", "--node-ip", w.second.ip, "--pod-manifest-path", manifests)
	select {
	case <-written.Events:
	case err := <-written.Errors:
		t.Fatal(err)
	case <-time.After(2 * time.Minute):
		t.Fatal("without a server the static Pod does not run")
	}

	w.startServer()
	w.kubectl("wait", "--for=create", "pod/own-two", "--timeout=120s")
	w.kubectl("wait", "--for=condition=Ready", "pod/own-two", "--timeout=120s")
	began, err := os.ReadFile(filepath.Join(out, "began"))
	must(t, err)
	if n := strings.Count(string(began), "began"); n != 1 {
		t.Errorf("the container began %d times", n)
	}
}
