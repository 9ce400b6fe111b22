package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

var (
	residentLine   = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)
	goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)
)

// Resident is the memory of a process, in MiB.
func Resident(pid int) (int, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	m := residentLine.FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("read memory of process %d: it has none", pid)
	}
	kib, err := strconv.Atoi(string(m[1]))
	return kib >> 10, err
}

// Goroutines is how many a program has by its own metrics.
func Goroutines(metrics string) (int, error) {
	m := goroutinesLine.FindStringSubmatch(metrics)
	if m == nil {
		return 0, errors.New("the metrics do not count goroutines")
	}
	return strconv.Atoi(m[1])
}
