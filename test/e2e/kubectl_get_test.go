package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// busybox is the manifest of a Pod that runs a shell script and may have labels.
func busybox(name, script, labels string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {%s}}\nspec:\n  terminationGracePeriodSeconds: 1\n"+
		"  containers:\n  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, %q]}\n", name, labels, script)
}

// forever ends at once when told to.
const forever = "trap 'exit 0' TERM; while :; do sleep 1; done"

func TestGet(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.apply(busybox("a", forever, "app: a, tier: front") + "---\n" + busybox("b", forever, "app: b, tier: front") + "---\n" + busybox("c", "exit 3", "app: c"))
		s.ready("a", "b")
		node := s.kubectl("get", "pod", "a", "-o", "jsonpath={.spec.nodeName}")
		t := s.t

		table := s.kubectl("get", "pods")
		header, _, _ := strings.Cut(table, "\n")
		equal(t, "columns", strings.Join(strings.Fields(header), " "), "NAME READY STATUS RESTARTS AGE")
		wide := strings.Split(s.kubectl("get", "pod", "a", "-o", "wide"), "\n")
		contains(t, "wide columns", strings.Join(strings.Fields(wide[0]), " "), "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES")
		if !regexp.MustCompile(`^a +1/1 +Running +0 +\d+s +\d+\.\d+\.\d+\.\d+ +` + regexp.QuoteMeta(node) + ` +<none> +<none>$`).MatchString(wide[1]) {
			t.Errorf("wide row %q", wide[1])
		}
		contains(t, "YAML", s.kubectl("get", "pod", "a", "-o", "yaml"), "apiVersion: v1\nkind: Pod\n", "\n  restartPolicy: Always\n", "\n  phase: Running\n")
		var p corev1.Pod
		if err := json.Unmarshal([]byte(s.kubectl("get", "pod", "a", "-o", "json")), &p); err != nil || p.Name != "a" {
			t.Errorf("JSON gives Pod %q, %v", p.Name, err)
		}
		equal(t, "jsonpath", s.kubectl("get", "pods", "-l", "tier=front", "-o", `jsonpath={range .items[*]}{.metadata.name}={.spec.containers[0].image};{end}`), "a=busybox;b=busybox;")
		equal(t, "custom columns", strings.Join(strings.Fields(s.kubectl("get", "pods", "-l", "tier=front", "-o", "custom-columns=POD:.metadata.name,APP:.metadata.labels.app")), " "), "POD APP a a b b")
		equal(t, "go template", s.kubectl("get", "pod", "a", "-o", "go-template={{.metadata.name}}"), "a")
		contains(t, "labels", s.kubectl("get", "pods", "--show-labels"), "app=a,tier=front")
		contains(t, "label column", s.kubectl("get", "pods", "-L", "app"), "APP")
		equal(t, "sorted", s.kubectl("get", "pods", "-o", "name", "--sort-by=.metadata.labels.app"), "pod/a\npod/b\npod/c\n")
		contains(t, "several kinds", s.kubectl("get", "pods,configmaps,serviceaccounts"), "pod/a", "configmap/kube-root-ca.crt", "serviceaccount/default")
		contains(t, "all namespaces", s.kubectl("get", "pods", "-A"), s.name)

		for selector, want := range map[string]string{
			"app=a": "pod/a\n", "app!=a,tier": "pod/b\n", "app in (a, c)": "pod/a\npod/c\n", "!tier": "pod/c\n", "app notin (a,b)": "pod/c\n",
		} {
			equal(t, "-l "+selector, s.kubectl("get", "pods", "-l", selector, "-o", "name"), want)
		}
		for selector, want := range map[string]string{
			"metadata.name=b": "pod/b\n", "spec.nodeName=" + node: "pod/a\npod/b\npod/c\n", "spec.nodeName=": "",
			"status.phase=Running,metadata.name!=c": "pod/a\npod/b\n", "spec.restartPolicy=Never": "",
		} {
			equal(t, "--field-selector "+selector, s.kubectl("get", "pods", "--field-selector", selector, "-o", "name"), want)
		}
		s.fails([]string{"get", "pods", "--field-selector", "spec.hostname=x"}, `field label not supported: spec.hostname`)
		s.fails([]string{"get", "pod", "missing"}, `Error from server (NotFound): pods "missing" not found`)
		equal(t, "ignored", s.kubectl("get", "pod", "missing", "--ignore-not-found"), "")
		equal(t, "nothing found", s.try("get", "pods", "-l", "app=none").stderr, "No resources found in "+s.name+" namespace.\n")
		s.waiting("c", "main", "CrashLoopBackOff")
		contains(t, "row of a crash loop", s.kubectl("get", "pod", "c"), "CrashLoopBackOff")
	})
}

func TestGetWatch(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		// What is there already shows that the watch has begun.
		s.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: gated}\nspec: {schedulingGates: [{name: example.com/wait}], containers: [{name: main, image: busybox}]}\n")
		w := s.start("get", "pods", "-w", "--output-watch-events")
		w.until(`^ADDED +gated +0/1 +SchedulingGated`)
		only := s.start("get", "pods", "-w", "-l", "app=other", "-o", "name")
		s.apply(busybox("seen", forever, "app: seen"))
		w.until(`^ADDED +seen +0/1 +Pending`)
		w.until(`^MODIFIED +seen +0/1 +ContainerCreating`)
		w.until(`^MODIFIED +seen +1/1 +Running`)
		s.kubectl("delete", "pod", "seen", "--now")
		w.until(`^MODIFIED +seen +1/1 +Terminating`)
		w.until(`^DELETED +seen`)
		s.apply(busybox("other", "exit 0", "app: other"))
		equal(s.t, "first of the selected", only.until("."), "pod/other")
	})
}

func TestDescribeAndEvents(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(busybox("d", forever, "app: d"))
		s.ready("d")
		s.event("d", "Started", "")
		text := s.kubectl("describe", "pod", "d")
		contains(t, "description", text, "Name:             d\n", "Namespace:        "+s.name, "Labels:           app=d", "Status:           Running",
			"Service Account:  default", "QoS Class:                   BestEffort", "Container ID:", "State:          Running",
			"Restart Count:  0", "/var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-", "PodScheduled                True",
			"PodReadyToStartContainers   True", "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s",
			"Successfully assigned "+s.name+"/d to ")
		if present := `Container image "busybox" already present on machine`; !strings.Contains(text, present) && !strings.Contains(text, `Successfully pulled image "busybox" in `) {
			t.Errorf("description says nothing of the image:\n%s", text)
		}
		events := s.kubectl("get", "events", "--sort-by=.lastTimestamp")
		contains(t, "events", events, "LAST SEEN", "REASON", "pod/d")
		for _, selector := range []string{"involvedObject.name=d,reason=Started", "involvedObject.kind=Pod,involvedObject.namespace=" + s.name + ",reason=Started", "type=Normal,reason=Started"} {
			contains(t, selector, s.kubectl("get", "events", "--field-selector", selector, "-o", "jsonpath={.items[*].involvedObject.name}"), "d")
		}
		contains(t, "kubectl events", s.kubectl("events", "--for", "pod/d"), "Scheduled", "Started")
		contains(t, "events.k8s.io", s.kubectl("get", "events.v1.events.k8s.io", "-o", "jsonpath={.items[*].reason}"), "Started")
		contains(t, "node", s.kubectl("describe", "nodes"), "Allocatable:", "Non-terminated Pods:", "Container Runtime Version:", "InternalIP:", "MemoryPressure", "KubeletReady", s.name)
		contains(t, "nodes", s.kubectl("get", "nodes", "-o", "wide"), "Ready", "INTERNAL-IP", "CONTAINER-RUNTIME", "ROLES")
		s.kubectl("create", "configmap", "words", "--from-literal=a=b")
		contains(t, "config map", s.kubectl("describe", "configmap", "words"), "Name:         words", "a:\n----\nb")
		contains(t, "namespace", s.kubectl("describe", "namespace", s.name), "Status:       Active")
	})
}
