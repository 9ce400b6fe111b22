package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// localVolumes has a claim become a directory of the node that its Pod is sent to, and go while that node is away.
func localVolumes(w *world) {
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"keeper"},"spec":{"nodeSelector":{"kubernetes.io/hostname":"two"},"terminationGracePeriodSeconds":0,
"volumes":[{"name":"d","persistentVolumeClaim":{"claimName":"data"}}],
"containers":[{"name":"c","image":%q,"imagePullPolicy":"IfNotPresent","command":["sleep","1000000"],"volumeMounts":[{"name":"d","mountPath":"/data"}]}]}}]}`, client)
	file := filepath.Join(w.TempDir(), "claim.json")
	must(w.T, os.WriteFile(file, []byte(manifest), 0o600))
	w.kubectl("apply", "-f", file)
	w.kubectl("wait", "--for=condition=Ready", "pod/keeper", "--timeout=120s")
	volume := strings.TrimSpace(w.kubectl("get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}"))
	for _, m := range []*machine{w.server, w.second, w.third} {
		_, err := os.Stat(filepath.Join(m.data, "volumes", volume))
		if m == w.second && err != nil || m != w.second && !os.IsNotExist(err) {
			w.Errorf("on node %s the directory of a volume of node two: %v", m.name, err)
		}
	}
	w.second.end(unix.SIGTERM)
	w.kubectl("delete", "pod", "keeper", "--force", "--grace-period=0")
	w.kubectl("delete", "pvc", "data", "--timeout=120s")
	w.kubectl("wait", "--for=jsonpath={.status.phase}=Released", "pv/"+volume, "--timeout=120s")
	dir := filepath.Join(w.second.data, "volumes", volume)
	if _, err := os.Stat(dir); err != nil {
		w.Errorf("the node is away, and its directory: %v", err)
	}
	w.second.start("agent", "--node-name", "two", "--node-ip", w.second.ip)
	w.kubectl("wait", "--for=delete", "pv/"+volume, "--timeout=120s")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		w.Errorf("the volume is gone and its directory is not: %v", err)
	}
}
