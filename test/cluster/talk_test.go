package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// talk is a program on a machine that goes on while the test does other things.
type talk struct {
	t     *testing.T
	what  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	errs  bytes.Buffer
}

// longestTalk ends a talk that does not end by itself: what is on the other side may be away for as long as a node may be silent.
const longestTalk = 5 * time.Minute

// kubectlTalk starts kubectl on the machine; it is killed when the test ends, and when it takes too long.
func (m *machine) kubectlTalk(args ...string) *talk {
	m.t.Helper()
	c := &talk{t: m.t, what: "kubectl " + strings.Join(args, " ")}
	ctx, cancel := context.WithTimeout(m.t.Context(), longestTalk)
	m.t.Cleanup(cancel)
	c.cmd = m.command(ctx, append([]string{m.binary, "kubectl"}, args...)...)
	out, err := c.cmd.StdoutPipe()
	must(m.t, err)
	c.in, err = c.cmd.StdinPipe()
	must(m.t, err)
	c.cmd.Stderr = &c.errs
	must(m.t, c.cmd.Start())
	c.lines = bufio.NewScanner(out)
	m.t.Cleanup(c.hangUp)
	return c
}

// hangUp ends the program from here.
func (c *talk) hangUp() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // It was killed.
	}
}

// say writes a line to the program.
func (c *talk) say(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.t.Fatalf("%s: say %q: %v", c.what, line, err)
	}
}

// next is the program's next line, which must come.
func (c *talk) next() string {
	c.t.Helper()
	if !c.lines.Scan() {
		_ = c.cmd.Wait()
		c.t.Fatalf("%s: it ends, with %v: %s", c.what, c.cmd.ProcessState, c.errs.String())
	}
	return c.lines.Text()
}

// hears waits for a line of the program.
func (c *talk) hears(line string) {
	c.t.Helper()
	for c.next() != line {
	}
}

// end waits until the program ends by itself, and returns its code and what it said on standard error.
func (c *talk) end() (code int, errs string) {
	c.t.Helper()
	for c.lines.Scan() {
	}
	_ = c.cmd.Wait() // The state says how it ended.
	return c.cmd.ProcessState.ExitCode(), c.errs.String()
}
