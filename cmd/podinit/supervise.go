//go:build cgo

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
	"github.com/peapod/peapod/runtime/supervisor/server"
)

// heapGrowth and heapLimit keep the heap small: it holds a few KiB a container, and garbage of an operation is soon collected.
const (
	heapGrowth = 50       // percent
	heapLimit  = 64 << 20 // bytes
)

// readyFd is the descriptor on which the starter waits for a line that says the socket listens, this process's or another's.
const readyFd = 3

func supervise(args []string) error {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	state := flags.String("state", "", "directory of the container records")
	run := flags.String("run", "", "directory of the socket")
	cgroup := flags.String("cgroup", "", "cgroup to move to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *state == "" || *run == "" {
		return errors.New("--state and --run must be given")
	}
	debug.SetGCPercent(heapGrowth)
	debug.SetMemoryLimit(heapLimit)
	// Containers outlive whoever started this process: a closed terminal or a broken pipe of its ends nothing. The signals
	// are taken and dropped rather than ignored, for what is ignored is ignored by every container too: a ^C on its terminal
	// would not reach it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
	protectFromOOM()

	var handover *os.File
	if v := os.Getenv(server.HandoverEnv); v != "" {
		fd, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("parse %s: %w", server.HandoverEnv, err)
		}
		unix.CloseOnExec(fd)
		handover = os.NewFile(uintptr(fd), "handover")
		if err := os.Unsetenv(server.HandoverEnv); err != nil {
			return fmt.Errorf("unset %s: %w", server.HandoverEnv, err)
		}
	}
	say := func(string) {}
	if handover == nil {
		unix.CloseOnExec(readyFd)
		pipe := os.NewFile(readyFd, "ready")
		say = func(line string) {
			// A starter that is gone need not know.
			_, _ = pipe.WriteString(line)
			pipe.Close()
		}
	}
	s := server.New(server.Config{StateDir: *state, RunDir: *run, Cgroup: *cgroup, Logf: logf})
	err := s.Run(handover, func() { say(protocol.Ready) })
	if errors.Is(err, server.ErrAnother) {
		say(protocol.Another)
		return nil
	}
	return err
}

// protectFromOOM makes the kernel prefer any other process when memory runs out. Where that is not allowed it stays as it is.
func protectFromOOM() {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		logf("set oom_score_adj: %v", err)
	}
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s podinit: %s\n", time.Now().Format(time.RFC3339), fmt.Sprintf(format, args...))
}
