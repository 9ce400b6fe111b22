// Package console has tests sit at a terminal, as a person at a keyboard does.
package console

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Console is a command on a terminal of its own.
type Console struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File

	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // has room for one: there is more text, or the end
	over bool
}

// Start starts cmd on a terminal of that size; it is killed when the test ends.
func Start(t *testing.T, cmd *exec.Cmd, rows, cols uint16) *Console {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock terminal: %v", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("name terminal: %v", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	c := &Console{t: t, cmd: cmd, master: master, more: make(chan struct{}, 1)}
	c.Resize(rows, cols)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read()
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		<-read
		_ = master.Close()
	})
	return c
}

// read collects what the terminal shows until its last user is gone.
func (c *Console) read() {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(int(c.master.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		c.mu.Lock()
		if n > 0 {
			c.text.Write(buf[:n])
		}
		c.over = err != nil || n <= 0
		over := c.over
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
		if over {
			return
		}
	}
}

// Resize has the terminal be of another size.
func (c *Console) Resize(rows, cols uint16) {
	c.t.Helper()
	if err := unix.IoctlSetWinsize(int(c.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		c.t.Fatalf("resize terminal: %v", err)
	}
}

// TypeIn is what the keyboard does.
func (c *Console) TypeIn(text string) {
	c.t.Helper()
	if _, err := unix.Write(int(c.master.Fd()), []byte(text)); err != nil {
		c.t.Fatalf("type: %v", err)
	}
}

// Shows waits until the terminal shows text, and forgets what is before its end.
func (c *Console) Shows(text string) {
	c.t.Helper()
	for {
		c.mu.Lock()
		if _, rest, found := strings.Cut(c.text.String(), text); found {
			c.text.Reset()
			c.text.WriteString(rest)
			c.mu.Unlock()
			return
		}
		seen, over := c.text.String(), c.over
		c.mu.Unlock()
		if over {
			c.t.Fatalf("the terminal closed before it showed %q; it shows %q", text, seen)
		}
		<-c.more
	}
}

// Code waits for the command's end and returns its exit code.
func (c *Console) Code() int {
	_ = c.cmd.Wait() // The state says how it ended.
	return c.cmd.ProcessState.ExitCode()
}
