//go:build cgo

package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// groupAt is the cgroup at path in every hierarchy.
func groupAt(path string) (cgroups.Manager, error) {
	m, err := manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	return m, nil
}

// enterCgroup moves the supervisor to its own cgroup.
func (s *Server) enterCgroup() error {
	if s.cfg.Cgroup == "" {
		return nil
	}
	m, err := groupAt(s.cfg.Cgroup)
	if err != nil {
		return err
	}
	if err := m.Apply(os.Getpid()); err != nil {
		return fmt.Errorf("enter cgroup %s: %w", s.cfg.Cgroup, err)
	}
	return nil
}

// oomKills counts the processes of a container that the kernel killed for want of memory; 0 if it cannot be known.
func oomKills(lib *libcontainer.Container) uint64 {
	config := lib.Config()
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return 0
	}
	n, err := m.OOMKillCount()
	if err != nil {
		return 0
	}
	return n
}

// clearGroup kills every process of a cgroup and removes it. It serves containers that an earlier supervisor left: their processes are
// nobody's children any more.
func clearGroup(path string) error {
	if path == "" || path == "/" {
		return nil
	}
	m, err := groupAt(path)
	if err != nil {
		return err
	}
	if !groupExists(m) {
		return nil
	}
	if cgroups.IsCgroup2UnifiedMode() {
		kill := filepath.Join(m.Path(""), "cgroup.kill")
		if err := os.WriteFile(kill, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("kill cgroup %s: %w", path, err)
		}
	}
	deadline := time.Now().Add(killTimeout)
	for {
		pids, err := m.GetAllPids()
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("list processes of cgroup %s: %w", path, err)
		}
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of cgroup %s did not end within %s of SIGKILL", len(pids), path, killTimeout)
		}
		for _, pid := range pids {
			if err := killMember(m, pid, deadline); err != nil {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, path, err)
			}
		}
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}

// groupExists looks in every hierarchy: a crash may have left some of them.
func groupExists(m cgroups.Manager) bool {
	for _, path := range m.GetPaths() {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// killMember kills a process that is not our child and waits for its end. The pidfd is opened first and the membership checked after, so
// that a reused pid is left alone.
func killMember(m cgroups.Manager, pid int, deadline time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if !isMember(m, pid) {
		return nil
	}
	// v1: the frozen do not die. What is being started may have no cgroup yet by which it could be frozen.
	if err := m.Freeze(cgroups.Thawed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, int(max(time.Until(deadline), 0)/time.Millisecond))
		if err != unix.EINTR {
			return err
		}
	}
}

func isMember(m cgroups.Manager, pid int) bool {
	own, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for subsystem, path := range m.GetPaths() {
		if at, ok := own[subsystem]; ok && strings.HasSuffix(path, at) && at != "/" {
			return true
		}
	}
	return false
}
