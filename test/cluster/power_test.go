package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// powerOff ends everything on the machine at once, and with it what no disk keeps: mounts, /run, interfaces, rules and cgroups.
func (m *machine) powerOff() {
	m.t.Helper()
	m.end(unix.SIGKILL)
	mark := "/peapod-" + m.place().Instance.Name + "/"
	for left := killMarked(m.t, mark); left > 0; left = killMarked(m.t, mark) {
	}
	must(m.t, m.holder.Process.Kill())
	_ = m.holder.Wait() // it was killed
	h := m.w.handle()
	defer h.Close()
	port, err := h.LinkByName(m.name)
	must(m.t, err)
	must(m.t, h.LinkDel(port))
	removeCgroups(m.t, "peapod-"+m.place().Instance.Name)
}

// killMarked kills the processes with this in their cgroups, and returns how many there were.
func killMarked(t *testing.T, mark string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err)
	n := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(b), mark) {
			continue // Somebody else's, or it has just ended.
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		must(t, err)
		n++
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
	return n
}

// removeCgroups removes the cgroup of this name in all hierarchies, which has no processes any more, with all below.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		roots, err := filepath.Glob(pattern + name)
		must(t, err)
		for _, root := range roots {
			var dirs []string
			must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			}))
			for _, dir := range slices.Backward(dirs) {
				must(t, os.Remove(dir))
			}
		}
	}
}

// powerOn starts the machine again: it has its disk and its place on the wire.
func (m *machine) powerOn() {
	m.t.Helper()
	m.path, m.ns = newNamespace(m.t, m.name)
	m.plug()
	m.hold()
}

// What a machine runs whose power is cut: a Pod that notes on its claim that it started, a Deployment, a Service of it, and a Job.
const powered = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"notes"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"noter"},"spec":{"nodeSelector":{"kubernetes.io/hostname":"two"},"terminationGracePeriodSeconds":0,
"volumes":[{"name":"d","persistentVolumeClaim":{"claimName":"notes"}},{"name":"m","emptyDir":{"medium":"Memory"}}],
"containers":[{"name":"c","image":%[1]q,"imagePullPolicy":"IfNotPresent","command":["sh","-c","echo started >> /data/log; exec sleep 1000000"],
"volumeMounts":[{"name":"d","mountPath":"/data"},{"name":"m","mountPath":"/m"}]}]}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},"template":{
"metadata":{"labels":{"app":"web"}},"spec":{"nodeSelector":{"kubernetes.io/hostname":"two"},"terminationGracePeriodSeconds":0,
"containers":[{"name":"web","image":"peapod.local/hello:latest"}]}}}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}},
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"work"},"spec":{"completionMode":"Indexed","completions":20,"parallelism":2,"backoffLimit":1000,"template":{
"spec":{"restartPolicy":"Never","nodeSelector":{"kubernetes.io/hostname":"two"},"terminationGracePeriodSeconds":0,
"containers":[{"name":"c","image":%[1]q,"imagePullPolicy":"IfNotPresent","command":["sleep","1"]}]}}}}]}`

// TestPowerCuts cuts the power of an agent's machine five times: its Pods run again each time, as the same Pods, with their claims; a Job gets
// done; and neither the machine nor the cluster has more than before.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	archives, err := cluster.MakeArchives(t.Context())
	must(t, err)
	w := newWorld(t, 1)
	two := w.second
	two.do("image", "import", archives.File("busybox"))
	clean, err := two.has()
	must(t, err)
	file := filepath.Join(t.TempDir(), "powered.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, powered, "busybox"), 0o600))
	w.kubectl("apply", "-f", file)
	// runs waits until each Pod has started so many times again, and is ready.
	runs := func(again int) (pods []string) {
		t.Helper()
		pods = strings.Fields(w.kubectl("get", "pods", "-l", notOfJob, "-o", "jsonpath={range .items[*]}pod/{.metadata.name} {end}"))
		for _, pod := range pods {
			w.kubectl("wait", fmt.Sprintf("--for=jsonpath={.status.containerStatuses[0].restartCount}=%d", again), pod, "--timeout=120s")
			w.kubectl("wait", "--for=condition=Ready", pod, "--timeout=120s")
		}
		return pods
	}
	w.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	was := runs(0)
	var greetings []string
	for _, pod := range was {
		if name := strings.TrimPrefix(pod, "pod/"); name != "noter" {
			greetings = append(greetings, greeting(name))
		}
	}
	const cuts = 5
	for i := range cuts {
		two.powerOff()
		two.powerOn()
		two.start("agent", "--node-name", "two", "--node-ip", two.ip)
		if now := runs(i + 1); !slices.Equal(now, was) {
			t.Fatalf("the Pods were %v and are %v", was, now)
		}
		address := w.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		two.answered(address+":80", greetings...)
	}
	w.kubectl("wait", "--for=condition=Complete", "job/work", "--timeout=180s")
	done := w.kubectl("get", "job", "work", "-o", "jsonpath={.status.succeeded} {.status.completedIndexes} {.status.failed}")
	if !strings.HasPrefix(done, "20 0-19 ") {
		t.Errorf("the Job ended with %s", done)
	}
	notes, err := filepath.Glob(filepath.Join(two.data, "volumes", "*", "log"))
	must(t, err)
	if len(notes) != 1 {
		t.Fatalf("the notes are in %v", notes)
	}
	b, err := os.ReadFile(notes[0])
	must(t, err)
	if n := strings.Count(string(b), "started\n"); n != cuts+1 {
		t.Errorf("the Pod with the claim has started %d times: %q", n, b)
	}
	w.kubectl("delete", "-f", file, "--timeout=120s")
	w.kubectl("wait", "--for=delete", "pod", "--all", "--timeout=120s")
	two.wantHas(clean)
}

// notOfJob selects the Pods that are not the Job's.
const notOfJob = "!batch.kubernetes.io/job-name"
