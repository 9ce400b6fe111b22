package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// patience ends a wait for something that is not going to happen. No test waits that long where all is well.
const patience = 2 * time.Minute

// space is a namespace of a test's own, and kubectl in it.
type space struct {
	t       *testing.T
	cluster *cluster.Cluster
	client  kubernetes.Interface
	name    string
	foreign bool // use this machine's kubectl
}

// newSpace makes a namespace on the shared cluster. It goes with the test; if that failed, what was in it is logged first.
func newSpace(t *testing.T) *space {
	t.Helper()
	return newSpaceOn(t, shared.cluster, shared.client)
}

func newSpaceOn(t *testing.T, c *cluster.Cluster, client kubernetes.Interface) *space {
	t.Helper()
	t.Cleanup(func() { tellIfFailed(t, c.Log) })
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Annotations: map[string]string{"peapod.io/test": t.Name()}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make namespace: %v", err)
	}
	s := &space{t: t, cluster: c, client: client, name: ns.Name}
	t.Cleanup(s.close)
	return s
}

// eachKubectl runs a test with `peapod kubectl` and, where this machine has one, with a kubectl of another make, each in a
// namespace of its own.
func eachKubectl(t *testing.T, test func(*space)) {
	t.Helper()
	for _, foreign := range []bool{false, true} {
		name := "peapod kubectl"
		if foreign {
			name = "kubectl"
			if _, ok := shared.cluster.ForeignKubectl(); !ok {
				t.Log("this machine has no kubectl of its own to test with")
				continue
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.foreign = foreign
			test(s)
		})
	}
}

func (s *space) close() {
	ctx := context.Background()
	if s.t.Failed() {
		s.report()
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	err := errors.Join(
		s.client.CoreV1().Pods(s.name).DeleteCollection(ctx, now, metav1.ListOptions{}),
		s.client.CoreV1().Namespaces().Delete(ctx, s.name, metav1.DeleteOptions{}))
	if err != nil {
		s.t.Errorf("remove namespace %s: %v", s.name, err)
	}
}

// report logs what a failed test's Pods and events look like.
func (s *space) report() {
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"}, {"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"},
	} {
		r := s.try(args...)
		s.t.Logf("kubectl %s:\n%s%s", strings.Join(args, " "), r.stdout, r.stderr)
	}
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// command is kubectl in this namespace, killed after patience.
func (s *space) command(args ...string) *exec.Cmd {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	args = append([]string{"--namespace", s.name}, args...)
	if s.foreign {
		cmd, _ := s.cluster.ForeignKubectl(args...)
		bound := exec.CommandContext(ctx, cmd.Path, args...)
		bound.Env = cmd.Env
		return bound
	}
	return s.cluster.CommandContext(ctx, append([]string{"kubectl"}, args...)...)
}

// try runs kubectl and returns how it ended.
func (s *space) try(args ...string) result {
	s.t.Helper()
	return s.run(s.command(args...))
}

func (s *space) run(cmd *exec.Cmd) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// kubectl runs a command that must succeed and returns its standard output.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	r := s.try(args...)
	if r.code != 0 {
		s.t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// kubectlIn is kubectl with text on its standard input.
func (s *space) kubectlIn(stdin string, args ...string) string {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	r := s.run(cmd)
	if r.code != 0 {
		s.t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must fail with all of these texts on standard error.
func (s *space) fails(args []string, texts ...string) result {
	s.t.Helper()
	r := s.try(args...)
	s.wantFailure(args, r, texts...)
	return r
}

// failsIn is fails with text on standard input.
func (s *space) failsIn(stdin string, args []string, texts ...string) {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	s.wantFailure(args, s.run(cmd), texts...)
}

func (s *space) wantFailure(args []string, r result, texts ...string) {
	s.t.Helper()
	if r.code == 0 {
		s.t.Fatalf("kubectl %s succeeded:\n%s%s", strings.Join(args, " "), r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			s.t.Errorf("kubectl %s: standard error lacks %q:\n%s%s", strings.Join(args, " "), text, r.stdout, r.stderr)
		}
	}
}

// apply applies a manifest given as text.
func (s *space) apply(manifest string) string {
	s.t.Helper()
	return s.kubectlIn(manifest, "apply", "-f", "-")
}

// ready waits for Pods to be Ready.
func (s *space) ready(pods ...string) {
	s.t.Helper()
	for _, name := range pods {
		s.awaitPod(name, "ready", func(p *corev1.Pod) bool {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					return true
				}
			}
			return false
		})
	}
}

// running waits until a container of a Pod runs.
func (s *space) running(pod, container string) {
	s.t.Helper()
	s.awaitPod(pod, "running "+container, func(p *corev1.Pod) bool {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.Name == container && c.State.Running != nil {
				return true
			}
		}
		return false
	})
}

// phase waits for a Pod to come to a phase.
func (s *space) phase(pod string, phase corev1.PodPhase) *corev1.Pod {
	s.t.Helper()
	return s.awaitPod(pod, string(phase), func(p *corev1.Pod) bool { return p.Status.Phase == phase })
}

// waiting waits until a container of a Pod waits for one of these reasons, and returns the container's message.
func (s *space) waiting(pod, container string, reasons ...string) string {
	s.t.Helper()
	var message string
	s.awaitPod(pod, "waiting for "+strings.Join(reasons, " or "), func(p *corev1.Pod) bool {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if w := c.State.Waiting; c.Name == container && w != nil {
				for _, r := range reasons {
					if w.Reason == r {
						message = w.Message
						return true
					}
				}
			}
		}
		return false
	})
	return message
}

// awaitPod watches a Pod until it is as wanted and returns it.
func (s *space) awaitPod(name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var last *corev1.Pod
	for {
		w, err := s.client.CoreV1().Pods(s.name).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			s.t.Fatalf("watch Pod %s: %v", name, err)
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Deleted {
				if last = p; wanted(p) {
					w.Stop()
					return p
				}
			}
		}
		if ctx.Err() != nil {
			s.t.Fatalf("Pod %s is not %s in time; it is %+v", name, what, last)
		}
	}
}

// gone waits until a Pod does not exist.
func (s *space) gone(pod string) {
	s.t.Helper()
	s.kubectl("wait", "--for=delete", "pod/"+pod, "--timeout="+patience.String())
}

// event watches until there is an event of that reason about an object, whose message contains text, and returns it.
func (s *space) event(object, reason, text string) *corev1.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	w, err := s.client.CoreV1().Events(s.name).Watch(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
	if err != nil {
		s.t.Fatalf("watch events: %v", err)
	}
	defer w.Stop()
	var seen []string
	for e := range w.ResultChan() {
		if ev, ok := e.Object.(*corev1.Event); ok {
			if ev.Reason == reason && strings.Contains(ev.Message, text) {
				return ev
			}
			seen = append(seen, ev.Reason+": "+ev.Message)
		}
	}
	s.t.Fatalf("no event %s with %q about %s in time; there were:\n%s", reason, text, object, strings.Join(seen, "\n"))
	return nil
}

// stream is a command that runs on while its output is read.
type stream struct {
	s     *space
	cmd   *exec.Cmd
	lines *bufio.Reader
	seen  strings.Builder
	mu    sync.Mutex
	errs  bytes.Buffer
	told  chan struct{} // has room for one: there is more on standard error
	stdin io.WriteCloser
	done  bool
}

// start starts kubectl and returns its output as it comes. It is killed at the test's end, if it still runs.
func (s *space) start(args ...string) *stream {
	s.t.Helper()
	st := &stream{s: s, cmd: s.command(args...), told: make(chan struct{}, 1)}
	out, err := st.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if st.stdin, err = st.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	st.cmd.Stderr = st
	st.lines = bufio.NewReader(out)
	if err := st.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(st.kill)
	return st
}

// Write takes standard error.
func (st *stream) Write(b []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	select {
	case st.told <- struct{}{}:
	default:
	}
	return st.errs.Write(b)
}

// stderr is what came on standard error until now.
func (st *stream) stderr() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.errs.String()
}

// complains waits until all of these are on standard error.
func (st *stream) complains(texts ...string) {
	st.s.t.Helper()
	ctx := within(st.s.t, patience)
	for _, text := range texts {
		for !strings.Contains(st.stderr(), text) {
			select {
			case <-st.told:
			case <-ctx.Done():
				st.s.t.Fatalf("%v does not say %q on standard error, but:\n%s", st.cmd.Args, text, st.stderr())
			}
		}
	}
}

// until reads lines until one matches the expression, and returns it.
func (st *stream) until(expression string) string {
	st.s.t.Helper()
	re := regexp.MustCompile(expression)
	for {
		line, err := st.lines.ReadString('\n')
		st.seen.WriteString(line)
		if line = strings.TrimRight(line, "\r\n"); re.MatchString(line) {
			return line
		}
		if err != nil {
			st.s.t.Fatalf("%v ended (%v) before a line matched %q:\n%s%s", st.cmd.Args, err, expression, st.seen.String(), st.stderr())
		}
	}
}

// logged waits until a line of a container's log matches, and returns all of the log then: that a container runs does not say
// that it has said something.
func (s *space) logged(expression string, args ...string) string {
	s.t.Helper()
	st := s.start(append([]string{"logs", "-f"}, args...)...)
	st.until(expression)
	st.kill()
	return s.kubectl(append([]string{"logs"}, args...)...)
}

// end reads to the end and returns all output and the exit code.
func (st *stream) end() result {
	st.s.t.Helper()
	if _, err := io.Copy(&st.seen, st.lines); err != nil {
		st.s.t.Fatalf("read output of %v: %v", st.cmd.Args, err)
	}
	st.wait()
	return result{st.seen.String(), st.stderr(), st.cmd.ProcessState.ExitCode()}
}

func (st *stream) wait() {
	if !st.done {
		st.done = true
		_ = st.cmd.Wait() // The state says how it ended.
	}
}

func (st *stream) kill() {
	if !st.done {
		_ = st.cmd.Process.Kill()
		st.wait()
	}
}

// write puts a file into a directory of the test's own and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// contains fails the test unless text has all of these in it.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

// equal fails the test unless got is want.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %s, want %s", what, quote(got), quote(want))
	}
}

func quote(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}
