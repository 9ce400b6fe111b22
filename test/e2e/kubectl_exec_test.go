package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/console"
)

func TestExec(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(busybox("x", forever, "app: x"))
		s.ready("x")
		r := s.try("exec", "x", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
		equal(t, "stdout", r.stdout, "out\n")
		contains(t, "stderr", r.stderr, "err\n", "command terminated with exit code 42")
		equal(t, "exit code", r.code, 42)
		equal(t, "signal's exit code", s.try("exec", "x", "--", "sh", "-c", "kill -9 $$").code, 137)
		equal(t, "stdin", s.kubectlIn("typed in\n", "exec", "-i", "x", "--", "cat"), "typed in\n")
		equal(t, "no stdin", s.kubectl("exec", "x", "--", "cat"), "")
		equal(t, "half-closed", strings.TrimSpace(s.kubectlIn("a\nb\nc\n", "exec", "-i", "x", "--", "wc", "-l")), "3")
		equal(t, "signals ignored from the start", s.kubectl("exec", "x", "--", "grep", "SigIgn", "/proc/self/status"), "SigIgn:\t0000000000000000\n")
		equal(t, "host name", s.kubectl("exec", "x", "--", "hostname"), "x\n")
		s.fails([]string{"exec", "x", "--", "no-such-program"}, "no-such-program", "executable file not found in $PATH")
		s.fails([]string{"exec", "x", "-c", "other", "--", "true"}, "container other")
		s.fails([]string{"exec", "missing", "--", "true"}, `pods "missing" not found`)
		many := make([]*stream, 8)
		for i := range many {
			many[i] = s.start("exec", "x", "--", "sh", "-c", "seq 1 1000 | tail -n 1")
		}
		for _, m := range many {
			equal(t, "one of several at once", m.end().stdout, "1000\n")
		}
	})
}

func TestExecOnTerminal(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.apply(busybox("tty", forever, "app: tty"))
		s.ready("tty")
		c := console.Start(s.t, s.command("exec", "-it", "tty", "--", "sh"), 33, 111)
		c.TypeIn("stty size; tty; echo $((6*7))_\n")
		c.Shows("33 111")
		c.Shows("/dev/pts/0")
		c.Shows("42_")
		// The window grows: the shell's child hears of it.
		c.TypeIn("trap 'echo now $(stty size)' WINCH; echo re''ady\n")
		c.Shows("ready")
		c.Resize(44, 122)
		c.TypeIn("while [ \"$(stty size)\" != '44 122' ]; do :; done; echo si''zed\n")
		c.Shows("sized")
		// Control-C interrupts what runs there, not kubectl. Who speaks is the one that is to be interrupted: a shell drops what comes
		// while it makes a child for its next command.
		c.TypeIn("sh -c \"echo ti''red; exec sleep 1000000\"\n")
		c.Shows("tired")
		c.TypeIn("\x03")
		c.TypeIn("echo still he''re\n")
		c.Shows("still here")
		c.TypeIn("exit 5\n")
		equal(s.t, "exit code", c.Code(), 5)
	})
}

// SIGTERM ends kubectl also while it has a session, as a supervisor of scripts expects.
func TestExecIsTerminated(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.apply(busybox("ended", forever, "app: ended"))
		s.ready("ended")
		st := s.start("exec", "-i", "ended", "--", "sh", "-c", "echo began; cat")
		st.until("began")
		if err := st.cmd.Process.Signal(unix.SIGTERM); err != nil {
			s.t.Fatal(err)
		}
		st.end() // which fails if it has to be killed
		if ws, ok := st.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signaled() && ws.Signal() != unix.SIGTERM || ws.ExitStatus() == 0 {
			s.t.Errorf("kubectl ended by %v", st.cmd.ProcessState)
		}
	})
}

// hundredMB writes a file of 100 MB whose every block differs, and returns its path and hash.
func hundredMB(t *testing.T) (path, hash string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "large")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	out := io.MultiWriter(f, h)
	block := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
	for i := range 1600 {
		copy(block, hex.EncodeToString([]byte{byte(i >> 8), byte(i)}))
		if _, err := out.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	return path, hex.EncodeToString(h.Sum(nil))
}

func TestHundredMegabytes(t *testing.T) {
	t.Parallel()
	path, hash := hundredMB(t)
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(busybox("pipe", forever, "app: pipe"))
		s.ready("pipe")
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd := s.command("exec", "-i", "pipe", "--", "cat")
		back := sha256.New()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, back, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		equal(t, "hash of what came back", hex.EncodeToString(back.Sum(nil)), hash)
	})
}

func TestCopy(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(busybox("box", forever, "app: box"))
		s.ready("box")
		from := t.TempDir()
		for name, text := range map[string]string{"a": "first\n", "sub/b": "second\n", "with space": "third\n"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		s.kubectl("cp", from, "box:/tmp/tree")
		equal(t, "copied", s.kubectl("exec", "box", "--", "sh", "-c", "cd /tmp/tree && cat a sub/b 'with space'"), "first\nsecond\nthird\n")
		back := filepath.Join(t.TempDir(), "back")
		s.kubectl("cp", s.name+"/box:/tmp/tree", back)
		for name, text := range map[string]string{"a": "first\n", "sub/b": "second\n", "with space": "third\n"} {
			if b, err := os.ReadFile(filepath.Join(back, name)); err != nil || string(b) != text {
				t.Errorf("%s came back as %q, %v", name, b, err)
			}
		}
		// What tar says of it kubectl may miss: it ends with the archive, which tar ends in good order. exec shows it always.
		s.try("cp", "box:/no/such", filepath.Join(back, "none"))
		if _, err := os.Lstat(filepath.Join(back, "none")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something was copied from nothing: %v", err)
		}
		s.fails([]string{"exec", "box", "--", "tar", "cf", "-", "/no/such"}, "No such file", "exit code 1")
	})
}

func TestAttach(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: in}\nspec:\n  restartPolicy: Never\n  containers:\n" +
			"  - {name: main, image: busybox, stdin: true, stdinOnce: true, command: [sh, -c, 'echo began; while read l; do echo got $l; done; echo ended']}\n")
		s.ready("in")
		cmd := s.command("attach", "-i", "in")
		cmd.Stdin = strings.NewReader("one\ntwo\n")
		r := s.run(cmd)
		equal(t, "exit code", r.code, 0)
		contains(t, "attached", r.stdout, "got one\ngot two\n")
		s.phase("in", "Succeeded") // stdinOnce: its input ended with the first session.
		contains(t, "log", s.kubectl("logs", "in"), "began\n", "got two\nended\n")

		s.apply(busybox("out", "while :; do echo tick; sleep 1; done", "app: out"))
		s.ready("out")
		s.start("attach", "out").until("^tick$")
	})
}

func TestRun(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		equal(t, "run", s.kubectl("run", "plain", "--image=peapod.local/hello:latest", "--image-pull-policy=IfNotPresent", "--labels=a=b", "--env=X=y", "--port=8080"), "pod/plain created\n")
		s.ready("plain")
		equal(t, "labels", s.kubectl("get", "pod", "plain", "-o", "jsonpath={.metadata.labels.a}{.spec.containers[0].env[0].value}"), "by")
		// It speaks when it is spoken to: what it said before kubectl attached would be in its log alone.
		run := s.command("run", "once", "--image=busybox", "--restart=Never", "--rm", "-i", "--", "sh", "-c", "read word; echo got $word; exit 3")
		run.Stdin = strings.NewReader("done\n")
		r := s.run(run)
		contains(t, "output", r.stdout, "got done\n")
		equal(t, "exit code", r.code, 3)
		s.fails([]string{"get", "pod", "once"}, "NotFound")
		contains(t, "dry run", s.kubectl("run", "dry", "--image=busybox", "--dry-run=client", "-o", "yaml"), "kind: Pod", "run: dry")

		c := console.Start(t, s.command("run", "shell", "--image=busybox", "--restart=Never", "-it", "--rm", "--", "sh"), 24, 80)
		c.TypeIn("echo he''llo\n")
		c.Shows("hello")
		c.TypeIn("exit\n")
		c.Shows(`pod "shell" deleted`)
		equal(t, "exit code", c.Code(), 0)
	})
}

func TestDebug(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(busybox("target", forever, "app: target"))
	s.ready("target")
	// It speaks when it is spoken to: what it said before kubectl attached would be in its log alone.
	debug := s.command("debug", "target", "--image=busybox", "--profile=general", "--target=main", "-i", "--",
		"sh", "-c", "read word; echo $word; ps | grep -c '[w]hile :'")
	debug.Stdin = strings.NewReader("see\n")
	r := s.run(debug)
	equal(t, "exit code", r.code, 0)
	contains(t, "output", r.stdout, "see\n1\n")
}
