package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const examples = "../../examples/"

// httpGet is what a Pod answers on a port, asked from the node.
func (s *space) httpGet(pod string, port int, path string) string {
	s.t.Helper()
	ip := s.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	r, err := http.Get(fmt.Sprintf("http://%s:%d%s", ip, port, path))
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func TestExampleHello(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("apply", "-f", examples+"hello.yaml")
		s.ready("hello")
		s.start("logs", "-f", "hello").until("^Hello from Pod hello$")
		contains(s.t, "answer", s.httpGet("hello", 8080, "/"), "Hello from Pod hello")
	})
}

func TestExampleOneContainer(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		equal(s.t, "apply", s.kubectl("apply", "-f", examples+"one-container.yaml"), "pod/one-container created\n")
		s.ready("one-container")
		follow := s.start("logs", "-f", "one-container")
		follow.until("^hello$")
		follow.until("^hello$")
		row := strings.Fields(s.kubectl("get", "pod", "one-container", "--no-headers"))
		equal(s.t, "row", strings.Join(row[:4], " "), "one-container 1/1 Running 0")
		for _, reason := range []string{"Scheduled", "Pulling", "Pulled", "Created", "Started"} {
			s.event("one-container", reason, "")
		}
	})
}

func TestExampleTwoContainers(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("apply", "-f", examples+"two-containers.yaml")
		s.ready("two-containers")
		s.start("logs", "-f", "two-containers", "-c", "first").until("^hello1$")
		s.start("logs", "-f", "two-containers", "-c", "second").until("^hello2$")
		row := strings.Fields(s.kubectl("get", "pod", "two-containers", "--no-headers"))
		equal(s.t, "ready", row[1], "2/2")
		// kubectl picks the first one by itself; the API does not.
		r := s.fails([]string{"get", "--raw", "/api/v1/namespaces/" + s.name + "/pods/two-containers/log"})
		contains(s.t, "error", r.stderr, "a container name must be specified for pod two-containers, choose one of: [first second]")
		s.fails([]string{"logs", "two-containers", "-c", "third"}, "container third is not valid for pod two-containers")
		all := s.kubectl("logs", "two-containers", "--all-containers", "--prefix")
		contains(s.t, "logs", all, "[pod/two-containers/first] hello1", "[pod/two-containers/second] hello2")
	})
}

func TestExampleSharedVolume(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"shared-volume.yaml")
	// The reader may have to be started again, and a log ends with its container.
	s.awaitPod("shared-volume", "ready", func(p *corev1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if !c.Ready {
				return false
			}
		}
		return len(p.Status.ContainerStatuses) == 2
	})
	s.start("logs", "-f", "shared-volume", "-c", "reader").until("^hello1$")
	contains(t, "file", s.kubectl("exec", "shared-volume", "-c", "reader", "--", "cat", "/in/test.log"), "hello1")
	s.fails([]string{"exec", "shared-volume", "-c", "reader", "--", "cat", "/out/test.log"}, "No such file")
}

func TestExampleSharedNetwork(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"shared-network.yaml")
	s.ready("shared-network")
	s.start("logs", "-f", "shared-network", "-c", "client").until("^8080 container$")
}

func TestExampleSidecar(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"sidecar.yaml")
	s.ready("sidecar")
	s.start("exec", "sidecar", "-c", "log-collector", "--", "tail", "-F", "/logs/app.log").until("Log entry")
	contains(t, "page", s.httpGet("sidecar", 80, "/app.log"), " - Log entry")
}

func TestExampleLabelsAndWeb(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	equal(t, "apply", s.kubectl("apply", "-f", examples+"labels.yaml", "-f", examples+"web.yaml"),
		"pod/frontend created\npod/backend created\npod/web created\n")
	s.ready("frontend", "backend", "web")
	equal(t, "frontends", s.kubectl("get", "pods", "-l", "app=frontend", "-o", "name"), "pod/frontend\n")
	equal(t, "both", s.kubectl("get", "pods", "-l", "app in (frontend,backend)", "-o", "name"), "pod/backend\npod/frontend\n")
	contains(t, "nginx", s.httpGet("frontend", 80, "/"), "Welcome to nginx!")
	contains(t, "myapp", s.httpGet("backend", 8080, "/"), "myapp 1.0")
	contains(t, "web", s.httpGet("web", 80, "/"), "Hello from the kiamol")
	// From Pod to Pod.
	ip := s.kubectl("get", "pod", "backend", "-o", "jsonpath={.status.podIP}")
	contains(t, "backend", s.kubectl("exec", "web", "--", "wget", "-qO-", "http://"+ip+":8080"), "myapp 1.0")
}

func TestExampleInitContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"init-containers.yaml")
	s.running("init-containers", "wait-for-myservice")
	s.start("logs", "-f", "init-containers", "-c", "wait-for-myservice").until("waiting for myservice")
	row := strings.Fields(s.kubectl("get", "pod", "init-containers", "--no-headers"))
	equal(t, "row", strings.Join(row[:4], " "), "init-containers 0/1 Init:0/3 0")
	equal(t, "reason", s.waiting("init-containers", "nginx", "PodInitializing"), "")
	s.fails([]string{"logs", "init-containers", "-c", "nginx"}, `container "nginx" in pod "init-containers" is waiting to start: PodInitializing`)
	s.kubectl("create", "service", "clusterip", "myservice", "--tcp=80")
	s.awaitPod("init-containers", "in its second init container", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) > 1 && p.Status.InitContainerStatuses[1].State.Running != nil
	})
	s.kubectl("create", "service", "clusterip", "mydb", "--tcp=80")
	s.ready("init-containers")
	equal(t, "page", s.httpGet("init-containers", 80, "/"), "prepared\n")
	for _, c := range []string{"wait-for-myservice", "wait-for-mydb", "write-page"} {
		equal(t, c, s.kubectl("get", "pod", "init-containers", "-o",
			`jsonpath={.status.initContainerStatuses[?(@.name=="`+c+`")].state.terminated.reason}`), "Completed")
	}
}

func TestExampleEnvironment(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"environment.yaml")
	s.phase("environment", corev1.PodSucceeded)
	equal(t, "log", s.kubectl("logs", "environment"), "hello world from environment, password s3cret\n")
	row := strings.Fields(s.kubectl("get", "pod", "environment", "--no-headers"))
	equal(t, "row", strings.Join(row[:4], " "), "environment 0/1 Completed 0")
}

func TestExampleVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"volumes.yaml")
	s.ready("volumes")
	equal(t, "log", s.start("logs", "-f", "volumes").until("s3cret"), "listen 80;s3cret")
	s.fails([]string{"exec", "volumes", "--", "touch", "/etc/app/x"}, "Read-only file system")
	s.fails([]string{"exec", "volumes", "--", "touch", "/etc/secrets/x"}, "Read-only file system")
	contains(t, "mode", s.kubectl("exec", "volumes", "--", "ls", "-lL", "/etc/secrets/token"), "-r--------")
	// What the Pod writes into the node's directory is there on the node.
	name := "peapod-" + s.name
	s.kubectl("exec", "volumes", "--", "sh", "-c", "echo from the Pod > /host-tmp/"+name)
	t.Cleanup(func() { os.Remove("/tmp/" + name) })
	b, err := os.ReadFile("/tmp/" + name)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "file on the node", string(b), "from the Pod\n")
	// A changed config map comes to the running Pod.
	s.kubectl("patch", "configmap", "volumes", "--type=merge", "-p", `{"data":{"site.conf":"listen 8080;"}}`)
	s.start("exec", "volumes", "--", "sh", "-c", "until grep 8080 /etc/app/site.conf; do usleep 50000; done").until("listen 8080;")
}

func TestExampleNodeSelector(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	node := s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	s.kubectl("apply", "-f", examples+"node-selector.yaml")
	s.event("node-selector", "FailedScheduling", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
	row := strings.Fields(s.kubectl("get", "pod", "node-selector", "--no-headers"))
	equal(t, "row", strings.Join(row[:3], " "), "node-selector 0/1 Pending")
	contains(t, "description", s.kubectl("describe", "pod", "node-selector"), "FailedScheduling", "default-scheduler", "gpu=true")
	equal(t, "condition", s.kubectl("get", "pod", "node-selector", "-o",
		`jsonpath={.status.conditions[?(@.type=="PodScheduled")].reason}`), "Unschedulable")
	s.kubectl("label", "node", node, "gpu=true")
	t.Cleanup(func() { s.kubectl("label", "node", node, "gpu-") })
	s.ready("node-selector")
	s.event("node-selector", "Scheduled", "Successfully assigned "+s.name+"/node-selector to "+node)
}

func TestExampleSecurity(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"security.yaml")
	s.ready("security")
	log := s.start("logs", "-f", "security")
	log.until(`^uid=1000 gid=3000 groups=2000,3000$|^uid=1000 gid=3000 groups=3000,2000$`)
	log.until(`^-rw-r--r--.* 1000 +2000 .*mine$`)
	s.fails([]string{"exec", "security", "--", "touch", "/x"}, "Read-only file system")
	status := s.kubectl("exec", "security", "--", "cat", "/proc/self/status")
	contains(t, "status", status, "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t")
}

func TestExampleResources(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"resources.yaml")
	s.ready("resources")
	equal(t, "class", s.kubectl("get", "pod", "resources", "-o", "jsonpath={.status.qosClass}"), "Burstable")
	contains(t, "description", s.kubectl("describe", "pod", "resources"), "memory:             128Mi", "cpu:                250m")
	equal(t, "memory limit", s.cgroup("resources", "memory.limit_in_bytes", "memory.max"), "134217728")
	switch cpu := s.cgroup("resources", "cpu.cfs_quota_us", "cpu.max"); cpu {
	case "50000", "50000 100000":
	default:
		t.Errorf("CPU limit of half a core is %q", cpu)
	}
}

// cgroup is what a file of the cgroup of a Pod's first container says, by its name in version 1 or 2.
func (s *space) cgroup(pod, v1, v2 string) string {
	s.t.Helper()
	id := s.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	_, id, _ = strings.Cut(id, "://")
	var text []byte
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, id) || d.Name() != v1 && d.Name() != v2 {
			return nil // Cgroups of other Pods come and go meanwhile.
		}
		if text, err = os.ReadFile(path); err != nil {
			return err
		}
		return fs.SkipAll
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(bytes.TrimSpace(text))
}

func TestMemoryLimitIsEnforced(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: hungry}, spec: {restartPolicy: Never, containers: [
		{name: c, image: ubuntu, command: [tail, /dev/zero], resources: {limits: {memory: 24Mi}}}]}}`)
	p := s.phase("hungry", corev1.PodFailed)
	end := p.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("over its limit, the container ended as %+v", end)
	}
	equal(t, "class", p.Status.QOSClass, corev1.PodQOSBurstable)
}

func TestKindsThatAreNotServed(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.failsIn("apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n",
			[]string{"apply", "-f", "-"}, `no matches for kind "Widget" in version "example.com/v1"`, "ensure CRDs are installed first")
		s.failsIn("apiVersion: v1\nkind: Widget\nmetadata: {name: w}\n", []string{"create", "-f", "-"}, "error")
		s.fails([]string{"get", "widgets"}, `the server doesn't have a resource type "widgets"`)
	})
}

func TestExamplesApplyAsOne(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("apply", "-f", examples)
		s.ready("hello", "one-container", "two-containers", "shared-network", "sidecar", "resources", "security", "volumes", "web", "frontend", "backend")
		// kubectl compares volumeMounts with what admission added to them, so "configured" says nothing of a Pod that has some.
		contains(s.t, "second apply", s.kubectl("apply", "-f", examples), "pod/hello unchanged", "pod/web unchanged", "configmap/volumes unchanged")
		s.kubectl("delete", "-f", examples, "--now")
		equal(s.t, "left", s.kubectl("get", "pods", "-o", "name"), "")
	})
}
