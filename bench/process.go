package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat, which is the same on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// memory is what processes hold, in MB: pages in memory, and those of them that are no file's.
type memory struct{ rss, anonymous float64 }

// memoryOf adds up the memory of processes. Pages that two of them share count twice.
func memoryOf(pids []int) (memory, error) {
	var sum memory
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return memory{}, fmt.Errorf("read memory of process: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			kb, _ := strconv.ParseFloat(fields[1], 64) // the first line is no amount, and none of the two
			switch fields[0] {
			case "Rss:":
				sum.rss += kb / 1024
			case "Anonymous:":
				sum.anonymous += kb / 1024
			}
		}
	}
	return sum, nil
}

// cpuOf adds up the CPU time, in user and system mode, that processes have used.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read CPU time of process: %w", err)
		}
		// The name, in parentheses, may hold anything; the first field after it is the third.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{14, 15} {
			ticks, err := strconv.ParseInt(fields[i-3], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum, nil
}

// processesNaming returns the processes one of whose arguments begins with prefix.
func processesNaming(prefix string) ([]int, error) {
	return processesWhose("cmdline", func(said string) bool {
		return slices.ContainsFunc(strings.Split(said, "\x00"), func(arg string) bool { return strings.HasPrefix(arg, prefix) })
	})
}

// processesWhose returns the processes whose file of that name in /proc is as wanted.
func processesWhose(name string, wanted func(said string) bool) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/" + name)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, file := range files {
		b, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
			continue // it has ended meanwhile
		case err != nil:
			return nil, fmt.Errorf("read process's %s: %w", name, err)
		case !wanted(string(b)):
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, fmt.Errorf("read process's number: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
