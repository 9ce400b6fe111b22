package image

import (
	"context"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cli/terminal"
)

// The runtime lists images by ID, which says nothing to a reader.
func TestLinesAreInOrderOfNames(t *testing.T) {
	got := lines([]*runtimeapi.Image{
		{Id: "sha256:1", RepoTags: []string{"docker.io/library/nginx:1.20.2", "docker.io/library/busybox:latest"}, Size: 2048, Pinned: true},
		{Id: "sha256:22222222222222222", Size: 10},
		{Id: "sha256:3", RepoTags: []string{"docker.io/library/myapp:1.0"}, Size: 10},
	})
	want := []string{
		"<none>\t2222222222222\t10\tfalse",
		"docker.io/library/busybox:latest\t1\t2.0Ki\ttrue",
		"docker.io/library/myapp:1.0\t3\t10\tfalse",
		"docker.io/library/nginx:1.20.2\t1\t2.0Ki\ttrue",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines are\n%q, want\n%q", got, want)
	}
}

// A server that was killed leaves its socket, and one that starts has none yet. Both are told from one that answers.
func TestNobodyListens(t *testing.T) {
	term := &terminal.Terminal{Out: io.Discard, Err: io.Discard, DataDir: t.TempDir()}
	i, err := term.Instance()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(i.RunDir) })
	list := func() string {
		t.Helper()
		cmd := New(term)
		cmd.SetArgs([]string{"list"})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.ExecuteContext(context.Background())
		if err == nil {
			t.Fatal("images were listed without a server")
		}
		return err.Error()
	}
	const none, starting = "no server runs with data directory", "is starting: 'peapod status --wait 1m'"
	if got := list(); !strings.Contains(got, none) {
		t.Errorf("without a server: %s", got)
	}

	if err := os.MkdirAll(i.RunDir, 0o711); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: i.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(); !strings.Contains(got, none) {
		t.Errorf("with the socket of a server that was killed: %s", got)
	}

	lock, err := i.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if got := list(); !strings.Contains(got, starting) {
		t.Errorf("with the socket of a server that was killed and one that starts: %s", got)
	}
	if err := os.Remove(i.Socket()); err != nil {
		t.Fatal(err)
	}
	if got := list(); !strings.Contains(got, starting) {
		t.Errorf("with a server that starts: %s", got)
	}
}
