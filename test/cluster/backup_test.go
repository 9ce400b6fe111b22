package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onTwo is a Deployment whose Pods run on the agent.
func (w *world) onTwo(name string, replicas int) {
	w.Helper()
	file := filepath.Join(w.TempDir(), name+".json")
	must(w.T, os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%[1]q},"spec":{"replicas":%[2]d,
"selector":{"matchLabels":{"app":%[1]q}},"template":{"metadata":{"labels":{"app":%[1]q}},"spec":{"nodeSelector":{"kubernetes.io/hostname":"two"},
"terminationGracePeriodSeconds":0,"containers":[{"name":"web","image":"peapod.local/hello:latest"}]}}}}`, name, replicas), 0o600))
	w.kubectl("apply", "-f", file)
	w.kubectl("rollout", "status", "deployment/"+name, "--timeout=120s")
}

// TestOldBackup puts an older backup back, as docs/CONFIG.md says, under an agent that runs newer Pods: the agent has seen more changes than
// there are now, and does what the API says nevertheless.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.onTwo("old", 2)
	was := w.kubectl("get", "pods", "-l", "app=old", "-o", "jsonpath={.items[*].metadata.uid}")
	backup := filepath.Join(t.TempDir(), "backup")
	w.server.do("backup", backup)
	w.onTwo("new", 2)
	w.kubectl("delete", "deployment", "old")
	w.kubectl("wait", "--for=delete", "pod", "-l", "app=old", "--timeout=120s")
	var maps strings.Builder
	for i := range 200 {
		fmt.Fprintf(&maps, "{apiVersion: v1, kind: ConfigMap, metadata: {name: later-%d}}\n---\n", i)
	}
	file := filepath.Join(t.TempDir(), "maps.yaml")
	must(t, os.WriteFile(file, []byte(maps.String()), 0o600))
	w.kubectl("create", "-f", file)
	w.server.end(unix.SIGKILL)
	for _, name := range []string{"store", "pki", "peapod.json"} {
		must(t, os.Rename(filepath.Join(w.server.data, name), filepath.Join(w.server.data, name+".old")))
	}
	w.server.do("restore", backup)
	w.startServer()

	w.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=120s")
	if now := w.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"); now != was {
		t.Errorf("the Pods were %s and are %s", was, now)
	}
	// They were ended on the node: they start again, and the newer ones end.
	for _, pod := range strings.Fields(w.kubectl("get", "pods", "-o", "name")) {
		w.kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", pod, "--timeout=120s")
	}
	w.onTwo("old", 3)
	place := w.second.place()
	err := place.Await(within(t), func() (got, want string, err error) {
		list, err := place.Containers()
		return fmt.Sprint(len(list)), "3", err
	})
	if err != nil {
		t.Errorf("containers on the agent: %v", err)
	}
}
