package cri

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// stream connects a client to the path that Exec or Attach returned.
func (n *node) stream(path string, opts remotecommand.StreamOptions) error {
	n.t.Helper()
	server := httptest.NewServer(n.service.StreamHandler())
	defer server.Close()
	u, err := url.Parse(server.URL + path)
	if err != nil {
		n.t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: server.URL}, "POST", u)
	if err != nil {
		n.t.Fatal(err)
	}
	return executor.StreamWithContext(n.ctx, opts)
}

func (n *node) execStream(id string, opts remotecommand.StreamOptions, cmd ...string) error {
	n.t.Helper()
	resp, err := n.service.Exec(n.ctx, &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: cmd, Tty: opts.Tty, Stdin: opts.Stdin != nil, Stdout: opts.Stdout != nil, Stderr: opts.Stderr != nil,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return n.stream(resp.Url, opts)
}

func TestExecStream(t *testing.T) {
	n := newNode(t)
	id := n.start(n.run(n.sandboxConfig("exec")), shell("main", "exec sleep 1000"))
	var out, errOut bytes.Buffer
	err := n.execStream(id, remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errOut},
		"sh", "-c", "cat; echo err >&2; exit 9")
	var exit exec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 9 || out.String() != "in\n" || errOut.String() != "err\n" {
		t.Errorf("got %q %q %v", &out, &errOut, err)
	}
	out.Reset()
	if err := n.execStream(id, remotecommand.StreamOptions{Stdout: &out}, "/absent"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("absent program: %v", err)
	}
}

func TestExecStreamBig(t *testing.T) {
	n := newNode(t)
	id := n.start(n.run(n.sandboxConfig("big")), shell("main", "exec sleep 1000"))
	const size = 100 << 20
	pattern := make([]byte, 1<<20)
	for i := range pattern {
		pattern[i] = byte(i * 7 / 3)
	}
	in, want, got := io.LimitReader(&repeat{data: pattern}, size), sha256.New(), sha256.New()
	if _, err := io.Copy(want, io.LimitReader(&repeat{data: pattern}, size)); err != nil {
		t.Fatal(err)
	}
	if err := n.execStream(id, remotecommand.StreamOptions{Stdin: in, Stdout: got}, "cat"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// repeat reads data over and over.
type repeat struct {
	data []byte
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	k := copy(p, r.data[r.at:])
	r.at = (r.at + k) % len(r.data)
	return k, nil
}

// sizes are the window sizes of a test's terminal.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestExecTerminal(t *testing.T) {
	n := newNode(t)
	id := n.start(n.run(n.sandboxConfig("tty")), shell("main", "exec sleep 1000"))
	in, typed := io.Pipe()
	out := newWatched()
	window := make(sizes, 1)
	window <- remotecommand.TerminalSize{Width: 101, Height: 43}
	done := make(chan error, 1)
	go func() {
		done <- n.execStream(id, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: window},
			"sh", "-c", "while [ \"$(stty size)\" != '43 101' ]; do sleep 0.05; done; echo $TERM; read x; echo got $x; exit 4")
	}()
	out.wait(t, "xterm")
	if _, err := typed.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	err := <-done
	close(window)
	var exit exec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 4 || !strings.Contains(out.String(), "got hello\r\n") {
		t.Errorf("got %q %v", out.String(), err)
	}
}

// watched is a buffer that can be waited on.
type watched struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func newWatched() *watched { return &watched{changed: make(chan struct{}, 1)} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return w.buf.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *watched) wait(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for !strings.Contains(w.String(), text) {
		select {
		case <-w.changed:
		case <-timeout:
			t.Fatalf("%q never comes, only %q", text, w.String())
		}
	}
}

func TestAttach(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("attach"))
	config := shell("main", "echo up; while read line; do echo got $line; done; echo end; exit 3")
	config.Stdin, config.StdinOnce = true, true
	id := n.start(pod, config)
	n.waitLog(id, "up")
	resp, err := n.service.Attach(n.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	listener := newWatched()
	listening := make(chan error, 1)
	listenURL := resp.Url
	go func() {
		listening <- n.stream(listenURL, remotecommand.StreamOptions{Stdout: listener, Stderr: io.Discard})
	}()

	resp, err = n.service.Attach(n.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	in, typed := io.Pipe()
	talker := newWatched()
	talking := make(chan error, 1)
	go func() {
		talking <- n.stream(resp.Url, remotecommand.StreamOptions{Stdin: in, Stdout: talker, Stderr: io.Discard})
	}()
	// Both are attached when both hear; until then lines are repeated.
	for !strings.Contains(listener.String(), "got") || !strings.Contains(talker.String(), "got") {
		if _, err := typed.Write([]byte("one\n")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-listening:
			t.Fatalf("the listener is cut off: %v", err)
		case <-listener.changed:
		case <-talker.changed:
		case <-time.After(50 * time.Millisecond):
		}
	}
	typed.Close()
	if err := <-talking; err != nil {
		t.Error(err)
	}
	if err := <-listening; err != nil {
		t.Error(err)
	}
	for name, w := range map[string]*watched{"talker": talker, "listener": listener} {
		if !strings.HasSuffix(w.String(), "end\n") {
			t.Errorf("%s hears %q", name, w)
		}
	}
	if st := n.wait(id); st.ExitCode != 3 || !strings.HasSuffix(n.log(st), "end\n") {
		t.Errorf("status %v, log %q", st, n.log(st))
	}
}

func TestAttachTerminal(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("attach"))
	config := shell("main", "while [ \"$(stty size)\" != '40 90' ]; do sleep 0.05; done; echo sized; read x; echo got $x; exit 3")
	config.Stdin, config.Tty = true, true
	id := n.start(pod, config)
	resp, err := n.service.Attach(n.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	in, typed := io.Pipe()
	out := newWatched()
	window := make(sizes, 1)
	window <- remotecommand.TerminalSize{Width: 90, Height: 40}
	done := make(chan error, 1)
	go func() {
		done <- n.stream(resp.Url, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: window})
	}()
	out.wait(t, "sized")
	if _, err := typed.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	close(window)
	if st := n.wait(id); st.ExitCode != 3 || !strings.Contains(n.log(st), "got hello") {
		t.Errorf("status %v, log %q", st, n.log(st))
	}
}

// TestSlowAttacher: a client that takes nothing does not hold the container up for good.
func TestSlowAttacher(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("slow"))
	config := shell("main", "read go; head -c 2000000 /dev/zero; echo; echo done")
	config.Stdin, config.StdinOnce = true, true
	id := n.start(pod, config)
	a, err := n.client.Attach(n.ctx, id, attachAll(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.In.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if st := n.wait(id); st.ExitCode != 0 || !strings.HasSuffix(n.log(st), "done\n") {
		t.Errorf("status %v", st)
	}
}

func TestPortForward(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("forward"))
	n.echo(pod, 8080)
	resp, err := n.service.PortForward(n.ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(n.service.StreamHandler())
	defer server.Close()
	u, err := url.Parse(server.URL + resp.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready, errOut := make(chan struct{}), make(chan struct{}), newWatched()
	forward, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:8080", "0:8081"}, stop, ready, io.Discard, errOut)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forward.ForwardPorts() }()
	<-ready
	ports, err := forward.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		got, err := converse(n.ctx, int(ports[0].Local), fmt.Sprintf("hello %d\n", i))
		if want := fmt.Sprintf("hello %d\nend\n", i); err != nil || got != want {
			t.Errorf("got %q %v", got, err)
		}
	}
	// Nobody listens there: the connection ends, and the others live on.
	if got, err := converse(n.ctx, int(ports[1].Local), "hello\n"); got != "" {
		t.Errorf("nobody answers %q, %v", got, err)
	}
	if got, err := converse(n.ctx, int(ports[0].Local), "still\n"); err != nil || got != "still\nend\n" {
		t.Errorf("after that: %q, %v", got, err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if again, err := http.Post(u.String(), "", nil); err != nil || again.StatusCode != http.StatusNotFound {
		t.Errorf("second use of an address: %v, %v", again, err)
	}
}

func TestPortForwardToNobody(t *testing.T) {
	n := newNode(t)
	pod := n.run(n.sandboxConfig("nobody"))
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	err := streamer{n.service}.PortForward(n.ctx, pod, 8081, server)
	if err == nil || !strings.Contains(err.Error(), "failed to connect to localhost:8081 inside namespace") || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error is %v", err)
	}
}

// echo listens on a port of the sandbox; it sends back what it gets, then "end" once the other side has ended.
func (n *node) echo(pod string, port int) {
	n.t.Helper()
	var l net.Listener
	err := ownthread.Run(func() (err error) {
		if err := enterNetwork(n.service.nsPath(pod, "net")); err != nil {
			return err
		}
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.Copy(conn, conn); err == nil {
					fmt.Fprintln(conn, "end")
				}
			}()
		}
	}()
}

// converse sends text, ends its side, and reads to the end.
func converse(ctx context.Context, port int, text string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	body, err := io.ReadAll(conn)
	return string(body), err
}

func attachAll() protocol.AttachRequest {
	return protocol.AttachRequest{Stdin: true, Stdout: true, Stderr: true}
}
