package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// script is a Pod of one busybox container that runs a shell script; spec and more are further lines of the Pod's spec and of
// its container.
func script(name, text, spec, more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n", name)
	if !strings.Contains(spec, "terminationGracePeriodSeconds") {
		spec = "terminationGracePeriodSeconds: 0\n" + spec
	}
	for line := range strings.Lines(spec) {
		b.WriteString("  " + line)
	}
	fmt.Fprintf(&b, "\n  containers:\n  - name: main\n    image: busybox\n    command: [sh, -c, %q]\n", text)
	for line := range strings.Lines(more) {
		b.WriteString("    " + line)
	}
	return b.String() + "\n---\n"
}

// How a container ends, by restart policy: the phase, the state and its reason, exit code and message.
func TestEndOfContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("never-good", "echo done > /dev/termination-log", "restartPolicy: Never", "") +
		script("never-bad", "echo broken; exit 3", "restartPolicy: Never", "terminationMessagePolicy: FallbackToLogsOnError") +
		script("onfailure-good", "true", "restartPolicy: OnFailure", "") +
		script("killed", "kill -9 $$", "restartPolicy: Never", "") +
		script("missing", "true", "restartPolicy: Never", "") +
		script("file", "echo text > /tmp/message; exit 1", "restartPolicy: Never", "terminationMessagePath: /tmp/message"))
	for _, test := range []struct {
		pod     string
		phase   corev1.PodPhase
		reason  string
		code    int32
		message string
	}{
		{"never-good", corev1.PodSucceeded, "Completed", 0, "done\n"},
		{"never-bad", corev1.PodFailed, "Error", 3, "broken\n"},
		{"onfailure-good", corev1.PodSucceeded, "Completed", 0, ""},
		{"file", corev1.PodFailed, "Error", 1, "text\n"},
	} {
		p := s.phase(test.pod, test.phase)
		st := only(t, p)
		end := st.State.Terminated
		if end == nil {
			t.Fatalf("the container of %s has not ended: %+v", test.pod, st.State)
		}
		equal(t, test.pod+" reason", end.Reason, test.reason)
		equal(t, test.pod+" exit code", end.ExitCode, test.code)
		equal(t, test.pod+" message", end.Message, test.message)
		equal(t, test.pod+" restarts", st.RestartCount, 0)
		if end.FinishedAt.Before(&end.StartedAt) || end.ContainerID != st.ContainerID {
			t.Errorf("%s ended so: %+v", test.pod, end)
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				want := "PodFailed"
				if test.phase == corev1.PodSucceeded {
					want = "PodCompleted"
				}
				equal(t, test.pod+" is not Ready because", c.Reason, want)
			}
		}
	}
	contains(t, "get pods", s.kubectl("get", "pods"), "Completed", "Error")
}

// A container that keeps failing is started again after a back-off, which its state, events and `--previous` tell of.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("always", "echo run; exit 1", "restartPolicy: Always", "") +
		script("always-good", "echo run", "restartPolicy: Always", "") +
		script("onfailure", "test -e /d/twice && exit 0; test -e /d/once && touch /d/twice; touch /d/once; exit 4",
			"restartPolicy: OnFailure\nvolumes: [{name: d, emptyDir: {}}]", "volumeMounts: [{name: d, mountPath: /d}]"))
	message := s.waiting("always", "main", "CrashLoopBackOff")
	uid := string(s.get("always").UID)
	contains(t, "message", message, "back-off 10s restarting failed container=main pod=always_"+s.name+"("+uid+")")
	s.event("always", "BackOff", "Back-off restarting failed container main in pod always_"+s.name+"("+uid+")")
	st := only(t, s.get("always"))
	if last := st.LastTerminationState.Terminated; last == nil || last.ExitCode != 1 || last.Reason != "Error" {
		t.Errorf("last state is %+v", st.LastTerminationState)
	}
	equal(t, "log of the run before", s.kubectl("logs", "--previous", "always"), "run\n")
	contains(t, "get pod", s.kubectl("get", "pod", "always"), "CrashLoopBackOff")
	equal(t, "phase", s.get("always").Status.Phase, corev1.PodRunning)

	s.awaitPod("always", "restarted after its back-off", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].RestartCount >= 2
	})
	s.awaitPod("always", "backing off for longer", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].State.Waiting != nil && strings.HasPrefix(st[0].State.Waiting.Message, "back-off 20s ")
	})
	s.awaitPod("always-good", "restarted although it ended well", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].RestartCount >= 1 && st[0].LastTerminationState.Terminated.Reason == "Completed"
	})
	p := s.phase("onfailure", corev1.PodSucceeded)
	equal(t, "restarts until it ended well", only(t, p).RestartCount, 2)
}

// The end of a Pod: SIGTERM and the hook before it, the time that they have, SIGKILL after.
func TestTermination(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const listening = `trap "echo got term; exit 0" TERM; echo up; while :; do sleep 0.05; done`
	const deaf = `trap "echo ignored" TERM; echo up; while :; do sleep 0.05; done`
	s.apply(script("listening", listening, "terminationGracePeriodSeconds: 60", "") +
		script("deaf", deaf, "terminationGracePeriodSeconds: 1", "") +
		script("hooked", listening, "terminationGracePeriodSeconds: 60", `lifecycle:
  postStart: {exec: {command: [sh, -c, 'echo started > /tmp/started']}}
  preStop: {exec: {command: [sh, -c, 'echo before stop > /proc/1/fd/1']}}
`) +
		script("bad-hook", "sleep 1000", "restartPolicy: Never", `lifecycle:
  postStart: {exec: {command: [sh, -c, 'echo no good; exit 7']}}
`))
	for _, test := range []struct {
		pod   string
		lines []string
	}{
		{"listening", []string{"got term"}},
		{"deaf", []string{"ignored"}},
		{"hooked", []string{"before stop", "got term"}},
	} {
		t.Run(test.pod, func(t *testing.T) {
			s.ready(test.pod)
			log := s.start("logs", "-f", test.pod)
			log.until("up")
			s.kubectl("delete", "pod", test.pod, "--wait=false")
			for _, line := range test.lines {
				log.until(line)
			}
			s.gone(test.pod)
		})
	}
	s.event("bad-hook", "FailedPostStartHook", "")
	s.event("deaf", "Killing", "Stopping container main")
	p := s.phase("bad-hook", corev1.PodFailed)
	if only(t, p).State.Terminated == nil {
		t.Errorf("a failed postStart hook left the container as %+v", only(t, p).State)
	}
}

func TestOOMKilled(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("hungry", "exec tail /dev/zero", "restartPolicy: Never", "resources: {limits: {memory: 16Mi}}") +
		script("child", "sh -c 'exec tail /dev/zero'; echo child ended; exit 5", "restartPolicy: Never", "resources: {limits: {memory: 16Mi}}"))
	end := only(t, s.phase("hungry", corev1.PodFailed)).State.Terminated
	equal(t, "reason", end.Reason, "OOMKilled")
	equal(t, "exit code", end.ExitCode, 137)
	only(t, s.phase("child", corev1.PodFailed))
}

func TestActiveDeadline(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("late", "sleep 1000", "activeDeadlineSeconds: 1\nrestartPolicy: Always", ""))
	p := s.phase("late", corev1.PodFailed)
	equal(t, "reason", p.Status.Reason, "DeadlineExceeded")
	equal(t, "message", p.Status.Message, "Pod was active on the node longer than the specified deadline")
	s.event("late", "DeadlineExceeded", "longer than the specified deadline")
	s.awaitPod("late", "ended", func(p *corev1.Pod) bool { return only(t, p).State.Terminated != nil })
}

// A log that grows too long goes on in a new file. Who follows it loses no line, and `--previous` works after it.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	const lines = 170000 // of 71 bytes: more than one file may hold
	s := newSpace(t)
	s.apply(script("talker", fmt.Sprintf(`if test -e /d/again; then echo second run; exec sleep 1000000; fi
		until test -e /d/go; do sleep 0.1; done; echo first line
		yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -n %d
		touch /d/again; echo last line; until test -e /d/rotated; do sleep 0.1; done; echo after rotation`, lines),
		"restartPolicy: Always\nvolumes: [{name: d, emptyDir: {}}]", "volumeMounts: [{name: d, mountPath: /d}]"))
	s.ready("talker")
	p := s.get("talker")
	followed := s.start("logs", "-f", "talker")
	s.kubectl("exec", "talker", "--", "touch", "/d/go")
	followed.until("^last line$")
	dir := fmt.Sprintf("%s/logs/%s_%s_%s/main", s.cluster.Instance.DataDir, s.name, p.Name, p.UID)
	appears(t, dir, func(name string) bool { return strings.HasPrefix(name, "0.log.") })
	s.kubectl("exec", "talker", "--", "touch", "/d/rotated")
	followed.until("^after rotation$")
	equal(t, "lines that the follower got", strings.Count(followed.seen.String(), "\n"), lines+3)
	s.awaitPod("talker", "restarted", func(p *corev1.Pod) bool {
		st := p.Status.ContainerStatuses
		return len(st) == 1 && st[0].RestartCount == 1 && st[0].Ready
	})
	equal(t, "log", s.logged("^second run$", "talker"), "second run\n")
	equal(t, "end of the log before", s.kubectl("logs", "--previous", "talker", "--tail=1"), "after rotation\n")
}

// Conditions come in the order in which a Pod comes to life, each with the time of its change.
func TestConditions(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	w, err := s.client.CoreV1().Pods(s.name).Watch(within(t, longest), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.apply(script("slow", "sleep 1000000", "initContainers: [{name: init, image: busybox, command: [sleep, '0.2']}]",
		"readinessProbe: {exec: {command: [test, -e, /tmp/ok]}, periodSeconds: 1}\nlifecycle: {postStart: {exec: {command: [touch, /tmp/ok]}}}"))
	order := []corev1.PodConditionType{corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady}
	at := map[corev1.PodConditionType]int{}
	step := 0
	for e := range w.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("watch: %+v", e.Object)
		}
		step++
		for _, c := range p.Status.Conditions {
			if _, seen := at[c.Type]; c.Status == corev1.ConditionTrue && !seen {
				at[c.Type] = step
				if c.LastTransitionTime.IsZero() || time.Since(c.LastTransitionTime.Time) > patience {
					t.Errorf("%s became true at %v", c.Type, c.LastTransitionTime)
				}
			}
		}
		if at[corev1.PodReady] > 0 {
			break
		}
	}
	for i, c := range order {
		if at[c] == 0 || i > 0 && at[c] < at[order[i-1]] {
			t.Errorf("conditions became true in steps %v, not in the order %v", at, order)
		}
	}
	if at[corev1.PodInitialized] <= at[corev1.PodReadyToStartContainers] {
		t.Errorf("the init container ran before the sandbox was ready: %v", at)
	}
}
