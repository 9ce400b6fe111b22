package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestLogs(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		// The last line goes to the other stream, once the lines before it are in the log: two streams have no order.
		s.apply(busybox("ten", "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done; until [ -e /go ]; do sleep 0.05; done; echo to stderr >&2; "+forever, "app: logs"))
		s.apply(busybox("two", "echo second Pod; "+forever, "app: logs"))
		s.ready("ten", "two")
		follow := s.start("logs", "-f", "ten")
		follow.until("line 10")
		s.kubectl("exec", "ten", "--", "touch", "/go")
		follow.until("to stderr")
		equal(t, "--tail", s.kubectl("logs", "ten", "--tail=3"), "line 9\nline 10\nto stderr\n")
		equal(t, "--tail=0", s.kubectl("logs", "ten", "--tail=0"), "")
		equal(t, "--limit-bytes", s.kubectl("logs", "ten", "--limit-bytes=10"), "line 1\nlin")
		equal(t, "all", strings.Count(s.kubectl("logs", "ten"), "\n"), 11)
		first := strings.SplitN(s.kubectl("logs", "ten", "--timestamps"), "\n", 2)[0]
		at, _, _ := strings.Cut(first, " ")
		written, err := time.Parse(time.RFC3339Nano, at)
		if err != nil || !strings.HasSuffix(first, " line 1") {
			t.Errorf("--timestamps gives %q: %v", first, err)
		}
		equal(t, "--since", strings.Count(s.kubectl("logs", "ten", "--since=1h"), "\n"), 11)
		after := written.Add(time.Hour).UTC().Format(time.RFC3339)
		equal(t, "--since-time", s.kubectl("logs", "ten", "--since-time="+after), "")
		// A selector shows ten lines of each Pod, by itself.
		selected := s.kubectl("logs", "-l", "app=logs", "--prefix")
		contains(t, "-l", selected, "[pod/ten/main] line 10\n", "[pod/two/main] second Pod\n")
		equal(t, "lines of ten", strings.Count(selected, "pod/ten"), 10)
		s.fails([]string{"logs", "missing"}, `pods "missing" not found`)
		s.fails([]string{"logs", "ten", "--previous"}, `previous terminated container "main" in pod "ten" not found`)
	})
}

func TestLogsFollow(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		// Follows to the container's end, and no further; nothing is lost on the way.
		s.apply(strings.Replace(busybox("count", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done", "app: count"), "spec:\n", "spec:\n  restartPolicy: Never\n", 1))
		s.awaitPod("count", "started", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodSucceeded
		})
		r := s.start("logs", "-f", "count").end()
		lines := strings.Fields(r.stdout)
		if len(lines) != 20000 || lines[0] != "1" || lines[19999] != "20000" {
			s.t.Errorf("followed %d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
		}
	})
}

func TestLogsPrevious(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(busybox("again", "if [ -e /dev/shm/second ]; then echo second; "+forever+"; fi; touch /dev/shm/second; echo first; exit 7", "app: again"))
	s.awaitPod("again", "restarted", func(p *corev1.Pod) bool {
		c := p.Status.ContainerStatuses
		return len(c) == 1 && c[0].RestartCount == 1 && c[0].State.Running != nil
	})
	equal(t, "--previous", s.kubectl("logs", "again", "--previous"), "first\n")
	s.start("logs", "-f", "again").until("second")
	equal(t, "last exit code", s.kubectl("get", "pod", "again", "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}"), "7")
	if row := s.kubectl("get", "pod", "again", "--no-headers"); !regexp.MustCompile(`again +1/1 +Running +1 \(\d+s ago\)`).MatchString(row) {
		t.Errorf("row of a Pod that restarted: %q", row)
	}
}
