package rootsocket

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", p, info, err, want)
		}
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process does already") {
		t.Errorf("a second listener: %v", err)
	}
	// What a process that was killed leaves behind is replaced.
	l.(rootListener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if l, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}

// TestOtherUsersAreTurnedAway: one who came before the socket had its mode.
func TestOtherUsersAreTurnedAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becomes another user, which takes root")
	}
	dir, err := os.MkdirTemp("", "rootsocket")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for p, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			accepted <- err.Error()
			return
		}
		defer c.Close()
		text, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		accepted <- string(text)
	}()
	say := func(who string) net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
			return nil
		}
		// One who is turned away may be so before this.
		_, _ = io.WriteString(c, who)
		if err := c.(*net.UnixConn).CloseWrite(); err != nil && who == "root" {
			t.Error(err)
		}
		return c
	}
	err = ownthread.Run(func() error {
		const nobody = 65534
		if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); err != 0 { // of this thread alone
			return err
		}
		if c := say("nobody"); c != nil {
			return c.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if c := say("root"); c != nil {
		defer c.Close()
	}
	if got := <-accepted; got != "root" {
		t.Errorf("%q was let in", got)
	}
}
