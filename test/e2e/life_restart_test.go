package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// A container's own policy, and its rules, go before the Pod's policy.
func TestRestartRulesOfContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]"
	s.apply(script("rule-matches", "exit 42", "restartPolicy: Never", "restartPolicy: Never\n"+rule) +
		script("no-rule-matches", "exit 1", "restartPolicy: Never", "restartPolicy: Never\n"+rule) +
		script("never-in-always", "exit 1", "restartPolicy: Always", "restartPolicy: Never") +
		script("always-in-never", "exit 1", "restartPolicy: Never", "restartPolicy: Always") +
		script("first-rule", "exit 42", "restartPolicy: Never", "restartPolicy: Never\nrestartPolicyRules:\n"+
			"- {action: Restart, exitCodes: {operator: NotIn, values: [0]}}\n"+
			"- {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}"))
	for _, name := range []string{"rule-matches", "always-in-never", "first-rule"} {
		s.awaitPod(name, "restarted", func(p *corev1.Pod) bool {
			if p.Status.Phase == corev1.PodFailed {
				t.Fatalf("Pod %s has failed: %+v", name, p.Status)
			}
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
		})
	}
	for _, name := range []string{"no-rule-matches", "never-in-always"} {
		st := only(t, s.phase(name, corev1.PodFailed))
		equal(t, name+" restarts", st.RestartCount, 0)
		equal(t, name+" exit code", st.State.Terminated.ExitCode, 1)
	}
	// The first rule that is for the code restarts the container alone: the condition tells of nothing else.
	for _, st := range restartingAll(s.get("first-rule")) {
		equal(t, "AllContainersRestarting", st, corev1.ConditionFalse)
	}
}

// restartingAll is the status of a Pod's condition AllContainersRestarting; none if it has none.
func restartingAll(p *corev1.Pod) []corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.AllContainersRestarting {
			return []corev1.ConditionStatus{c.Status}
		}
	}
	return nil
}

// restarting is a Pod whose sidecar restarts all containers when the file /d/fire appears. Each container writes its name
// into /d/log when it starts; the one that is called stubborn ends by SIGKILL only.
const restarting = `
apiVersion: v1
kind: Pod
metadata: {name: restarting}
spec:
  restartPolicy: Never
  volumes: [{name: d, emptyDir: {}}]
  initContainers:
  - name: init
    image: busybox
    command: [sh, -c, "echo init >> /d/log; while test -e /d/hold; do sleep 0.05; done"]
    volumeMounts: [{name: d, mountPath: /d}]
  - name: watcher
    image: busybox
    command: [sh, -c, "echo watcher >> /d/log; until rm /d/fire 2> /dev/null; do sleep 0.05; done; exit 88"]
    volumeMounts: [{name: d, mountPath: /d}]
    restartPolicy: Always
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'echo ended; exit 7' TERM; echo main >> /d/log; echo up; while :; do sleep 0.05; done"]
    volumeMounts: [{name: d, mountPath: /d}]
    lifecycle: {preStop: {exec: {command: [touch, /d/hook]}}}
  - name: stubborn
    image: busybox
    command: [sh, -c, "trap '' TERM; echo stubborn >> /d/log; while :; do sleep 0.05; done"]
    volumeMounts: [{name: d, mountPath: /d}]
  - name: once
    image: busybox
    command: [sh, -c, "echo once >> /d/log; test -e /d/again && exit 1; touch /d/again"]
    volumeMounts: [{name: d, mountPath: /d}]
`

// restarted waits until all of the Pod's containers have been restarted so often, and run or have ended, and returns the Pod.
func (s *space) restarted(name string, times int32) *corev1.Pod {
	s.t.Helper()
	return s.awaitPod(name, "restarted", func(p *corev1.Pod) bool {
		all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
		return len(all) > 0 && !slices.ContainsFunc(all, func(st corev1.ContainerStatus) bool {
			return st.RestartCount != times || st.State.Waiting != nil
		})
	})
}

// allStarted waits until the containers of the Pod restarting have all started so often, and fails the test unless they did
// so round by round, the init container first, and no more often.
func (s *space) allStarted(rounds int) {
	s.t.Helper()
	s.awaitPod("restarting", "running", func(p *corev1.Pod) bool {
		once := p.Status.ContainerStatuses // sorted by name
		return len(once) == 3 && once[1].State.Terminated != nil && int(once[1].RestartCount) == rounds-1
	})
	log := s.kubectl("exec", "restarting", "-c", "main", "--", "sh", "-c",
		fmt.Sprintf("until test $(wc -l < /d/log) -ge %d; do sleep 0.05; done; cat /d/log", 5*rounds))
	lines := strings.Fields(log)
	for round := range slices.Chunk(lines, 5) {
		first := round[0]
		slices.Sort(round)
		if first != "init" || !slices.Equal(round, []string{"init", "main", "once", "stubborn", "watcher"}) {
			s.t.Errorf("the containers started in this order: %q", strings.Fields(log))
		}
	}
	equal(s.t, "number of starts", len(lines), 5*rounds)
}

// One container's end restarts all of them in place: the init container and what had ended too, while the Pod keeps its
// UID, address, network, volumes and its ephemeral container.
func TestRestartOfAllContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(restarting)
	s.allStarted(1)
	before := s.debugging("restarting")
	network := s.kubectl("exec", "restarting", "-c", "main", "--", "readlink", "/proc/self/ns/net")

	w, err := s.client.CoreV1().Pods(s.name).Watch(within(t, patience), metav1.ListOptions{
		FieldSelector: "metadata.name=restarting", ResourceVersion: before.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.kubectl("exec", "restarting", "-c", "main", "--", "touch", "/d/fire")
	after := s.restarted("restarting", 1)

	seen := s.conditionsUntil(w, after)
	if want := []corev1.ConditionStatus{"True", "False"}; !slices.Equal(seen, want) {
		t.Errorf("AllContainersRestarting was %v, want %v", seen, want)
	}
	equal(t, "UID", after.UID, before.UID)
	equal(t, "address", after.Status.PodIP, before.Status.PodIP)
	equal(t, "phase", after.Status.Phase, corev1.PodRunning)
	equal(t, "network", s.kubectl("exec", "restarting", "-c", "main", "--", "readlink", "/proc/self/ns/net"), network)
	equal(t, "ephemeral container", after.Status.EphemeralContainerStatuses[0].ContainerID, before.Status.EphemeralContainerStatuses[0].ContainerID)
	if after.Status.EphemeralContainerStatuses[0].State.Running == nil {
		t.Errorf("the ephemeral container was ended: %+v", after.Status.EphemeralContainerStatuses[0])
	}
	codes := map[string]int32{"init": 0, "watcher": 88, "main": 7, "stubborn": 137, "once": 0}
	for _, st := range slices.Concat(after.Status.InitContainerStatuses, after.Status.ContainerStatuses) {
		last := st.LastTerminationState.Terminated
		if last == nil || last.ExitCode != codes[st.Name] || last.ContainerID == st.ContainerID {
			t.Errorf("%s was before: %+v, want exit code %d of another container", st.Name, st.LastTerminationState, codes[st.Name])
		}
	}
	s.allStarted(2)
	equal(t, "how once ended", statusOf(t, s.get("restarting"), "once").State.Terminated.ExitCode, 1)
	equal(t, "log of the run before", s.kubectl("logs", "--previous", "restarting", "-c", "main"), "up\nended\n")
	s.fails([]string{"exec", "restarting", "-c", "main", "--", "ls", "/d/hook"}, "No such file") // no hook ran
}

// debugging adds an ephemeral container and returns the Pod once that runs.
func (s *space) debugging(name string) *corev1.Pod {
	s.t.Helper()
	const container = `{"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox","command":["sleep","1000000"]}]}}`
	_, err := s.client.CoreV1().Pods(s.name).Patch(s.t.Context(), name, types.StrategicMergePatchType, []byte(container),
		metav1.PatchOptions{}, "ephemeralcontainers")
	if err != nil {
		s.t.Fatal(err)
	}
	return s.awaitPod(name, "debugged", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
}

// conditionsUntil are the statuses of AllContainersRestarting, one after the other, up to a version of the Pod.
func (s *space) conditionsUntil(w watch.Interface, last *corev1.Pod) []corev1.ConditionStatus {
	s.t.Helper()
	var seen []corev1.ConditionStatus
	for e := range w.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			s.t.Fatalf("watch: %+v", e.Object)
		}
		seen = slices.Compact(append(seen, restartingAll(p)...))
		if p.ResourceVersion == last.ResourceVersion {
			return seen
		}
	}
	s.t.Fatalf("the watch ended before the Pod was restarted; seen %v", seen)
	return nil
}

func statusOf(t *testing.T, p *corev1.Pod, name string) corev1.ContainerStatus {
	t.Helper()
	all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	i := slices.IndexFunc(all, func(st corev1.ContainerStatus) bool { return st.Name == name })
	if i < 0 {
		t.Fatalf("Pod %s has no status of container %s", p.Name, name)
	}
	return all[i]
}

// What restarts all may be an init container, the only container, or one that was restarted alone before; it may do so
// again and again, and then backs off.
func TestSourcesOfRestartOfAllContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const all = "restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]"
	const volume = "volumes: [{name: d, emptyDir: {}}]\n"
	const mounted = "volumeMounts: [{name: d, mountPath: /d}]\n"
	s.apply(script("init", "sleep 1000000", volume+`restartPolicy: Never
initContainers:
- {name: side, image: busybox, command: [sleep, "1000000"], restartPolicy: Always}
- name: source
  image: busybox
  command: [sh, -c, "test -e /d/once && exit 0; touch /d/once; exit 42"]
  restartPolicy: Never
  `+all+"\n  "+mounted, "") +
		script("before", "test -e /d/2 && exec sleep 1000000; test -e /d/1 && { touch /d/2; exit 42; }; touch /d/1; exit 1",
			volume, "restartPolicy: Always\n"+all+"\n"+mounted) +
		script("loop", "echo run; exit 42", "restartPolicy: Never", "restartPolicy: Never\n"+all) +
		// The start of main goes on until its hook ends, which it does not by itself.
		script("hook", "echo main >> /d/log; sleep 1000000", volume+`restartPolicy: Never
initContainers:
- name: source
  image: busybox
  command: [sh, -c, "test -e /d/once && exec sleep 1000000; until test -e /d/hook; do sleep 0.05; done; touch /d/once; exit 42"]
  restartPolicy: Always
  `+all+"\n  "+mounted, mounted+`lifecycle: {postStart: {exec: {command: [sh, -c, "test -e /d/hook && exit 0; touch /d/hook; sleep 1000000"]}}}`))

	s.awaitPod("loop", "backing off", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].State.Waiting != nil && p.Status.Phase == corev1.PodRunning &&
			strings.HasPrefix(st[0].State.Waiting.Message, "back-off 10s restarting failed container=main")
	})
	s.awaitPod("init", "initialized", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	s.event("init", "Killing", "Container side will be restarted with all containers of the pod")
	p := s.get("init")
	for name, want := range map[string]int32{"side": 1, "source": 1, "main": 0} {
		equal(t, "restarts of "+name, statusOf(t, p, name).RestartCount, want)
	}
	s.awaitPod("before", "restarted twice", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].State.Running != nil && st[0].RestartCount == 2
	})
	equal(t, "restarts of main", statusOf(t, s.restarted("hook", 1), "main").State.Running != nil, true)
	equal(t, "runs of main", s.kubectl("exec", "hook", "--", "cat", "/d/log"), "main\nmain\n")
}

// kill -9 of the server while all containers are ended for a restart, and while they start again, changes nothing of it:
// each is started once more, and no more.
func TestRestartOfAllContainersThroughCrashes(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.awaitAccount()
	crash := func() {
		o.killServer()
		o.restart()
		o.client = clientOf(o.t, o.Cluster)
		s.client = o.client
		o.awaitKubelet()
	}
	s.apply(restarting)
	s.allStarted(1)
	before := s.get("restarting")

	// While they are ended: stubborn takes the two seconds of the shortest grace.
	s.kubectl("exec", "restarting", "-c", "main", "--", "sh", "-c", "touch /d/hold /d/fire")
	s.awaitPod("restarting", "ended to be restarted", func(p *corev1.Pod) bool {
		return slices.Contains(restartingAll(p), corev1.ConditionTrue)
	})
	crash()
	// While they start again: the init container waits for a file to go.
	s.awaitPod("restarting", "starting again", func(p *corev1.Pod) bool {
		st := statusOf(t, p, "init")
		return st.RestartCount == 1 && st.State.Running != nil && slices.Contains(restartingAll(p), corev1.ConditionFalse)
	})
	crash()
	s.kubectl("exec", "restarting", "-c", "init", "--", "rm", "/d/hold")
	after := s.restarted("restarting", 1)
	equal(t, "UID", after.UID, before.UID)
	equal(t, "address", after.Status.PodIP, before.Status.PodIP)
	s.allStarted(2)
}
