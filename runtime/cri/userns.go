package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/runtime/oci"
	"github.com/peapod/peapod/runtime/snapshot"
)

// users is the sandbox's user namespace. What it says was checked when the sandbox was made.
func (e *sandboxEntry) users() oci.IDMap {
	m, _ := oci.Users(e.namespaces().GetUsernsOptions()) // as in checkUsers
	return m
}

// checkUsers refuses a user namespace that is no good, or whose other namespaces are the machine's: its root has no power over
// those, and /sys and /dev/mqueue could not be mounted.
func (e *sandboxEntry) checkUsers() error {
	m, err := oci.Users(e.namespaces().GetUsernsOptions())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if !m.Private() {
		return nil
	}
	for name, mode := range map[string]runtimeapi.NamespaceMode{
		"network": e.namespaces().GetNetwork(), "pid": e.namespaces().GetPid(), "ipc": e.namespaces().GetIpc(),
	} {
		if mode == runtimeapi.NamespaceMode_NODE {
			return status.Errorf(codes.InvalidArgument, "a user namespace cannot be combined with the machine's %s namespace: set hostUsers, or take %s back", name, name)
		}
	}
	return nil
}

// checkContainerUsers refuses a container whose user namespace is not its sandbox's, and devices that cannot be given to it.
func (s *Service) checkContainerUsers(sandbox *sandboxEntry, config *runtimeapi.ContainerConfig) error {
	want, err := oci.Users(config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	users := sandbox.users()
	if !want.Equal(users) {
		return status.Errorf(codes.InvalidArgument, "the user namespace of the container is not that of sandbox %q", sandbox.ID)
	}
	if !users.Private() {
		return nil
	}
	for _, d := range config.Devices {
		// A node cannot be made there, so the machine's own is mounted, and that by its own path.
		if at, err := filepath.EvalSymlinks(d.HostPath); err != nil || at != filepath.Clean(d.ContainerPath) {
			return status.Errorf(codes.InvalidArgument, "device %q at %q: in a user namespace a device keeps the path that it has on the machine", d.HostPath, d.ContainerPath)
		}
	}
	return nil
}

// owner says to whom on the machine belongs what a container sees as another's.
func owner(users oci.IDMap) snapshot.Owner {
	if !users.Private() {
		return nil
	}
	return users.Host
}

// makeRunDir makes the directory of a sandbox's or container's mounts. Nobody on the machine but its root may pass through it, for there
// are programs in it that run as their owner (CVE-2021-41091), and the root of the user namespace, which reaches its root file
// system by this path.
func makeRunDir(dir string, users oci.IDMap) error {
	_, gid, err := users.Host(0, 0)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of mounts: %w", err)
	}
	if !users.Private() {
		return nil
	}
	if err := errors.Join(os.Chown(dir, 0, int(gid)), os.Chmod(dir, 0o710)); err != nil {
		return fmt.Errorf("make directory of mounts: %w", err)
	}
	return nil
}

// mountSnapshot mounts what Snapshots gave at target, for a container in the sandbox.
func (s *Service) mountSnapshot(sandbox *sandboxEntry, containerID string, mounts []snapshot.Mount, target string) error {
	if !sandbox.users().Private() {
		return snapshot.MountAt(mounts, target)
	}
	users, err := os.Open(s.nsPath(sandbox.ID, "user"))
	if err != nil {
		return fmt.Errorf("open user namespace: %w", err)
	}
	defer users.Close()
	return snapshot.MountMapped(mounts, target, s.containerRun(containerID), users)
}

// withNamespaces makes a user namespace, and namespaces (CLONE_NEW*) that belong to it, and calls fn, which may pin or open them by
// the paths given. A process with several threads cannot enter a user namespace, so a child is made in it: this very program, which
// is stopped (PTRACE_TRACEME) before its first instruction and killed when fn returns. Cost: a fork of this process, 1 to 3 ms.
//
// The namespace is made in the name of its own root, so that what the kernel counts for a user (pending signals, message queues) is
// counted for each Pod alone. All of it happens on one thread, which ends: it is the child's tracer, without which the child would run.
func withNamespaces(flags int, users oci.IDMap, fn func(path func(kind string) string) error) error {
	return ownthread.Run(func() (err error) {
		uid, _, err := users.Host(0, 0)
		if err != nil {
			return err
		}
		var p *os.Process
		err = asUser(uid, true, func() error {
			p, err = os.StartProcess("/proc/self/exe", []string{"peapod-namespaces"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
				Cloneflags:  uintptr(flags) | unix.CLONE_NEWUSER,
				UidMappings: sysMappings(users.UIDs), GidMappings: sysMappings(users.GIDs), GidMappingsEnableSetgroups: true,
				Ptrace: true,
			}})
			return err
		})
		if p != nil {
			defer func() {
				killErr := p.Kill()
				if _, waitErr := p.Wait(); waitErr != nil {
					err = errors.Join(err, fmt.Errorf("end process in new namespaces: %w", errors.Join(killErr, waitErr)))
				}
			}()
		}
		switch {
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
			return fmt.Errorf("make user namespace: %w: raise the sysctl user.max_user_namespaces of the machine", err)
		case errors.Is(err, unix.EACCES):
			return fmt.Errorf("make user namespace: %w: everybody must be allowed to execute the file of this program", err)
		case err != nil:
			return fmt.Errorf("make user namespace: %w", err)
		}
		return fn(func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", p.Pid, kind) })
	})
}

func sysMappings(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, m := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return out
}

// asUser calls fn as the user uid of the machine, with the capabilities of root or without. The calling thread alone changes, so it must be
// the caller's own, and fn stays on it.
func asUser(uid uint32, capable bool, fn func() error) (err error) {
	const keep = ^uintptr(0) // root stays the real user, and so the capabilities permitted
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("become user %d: %w", uid, os.NewSyscallError("setresuid", errno))
	}
	defer func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
			err = errors.Join(err, fmt.Errorf("become root again: %w", os.NewSyscallError("setresuid", errno)))
		}
	}()
	if capable {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return os.NewSyscallError("capget", err)
		}
		for i := range data {
			data[i].Effective = data[i].Permitted
		}
		if err := unix.Capset(&header, &data[0]); err != nil {
			return os.NewSyscallError("capset", err)
		}
	}
	return fn()
}

// haveUsers returns nil if this machine can make user namespaces for Pods, and else why not. That it can is asked once; that it cannot may
// be mended while this process runs.
func (s *Service) haveUsers() error {
	s.users.Lock()
	defer s.users.Unlock()
	if s.users.work {
		return nil
	}
	err := s.probeUsers()
	s.users.work = err == nil
	return err
}

// probeUsers tries whether this machine can do what user namespaces for Pods take: make one, and map the IDs of the file system that
// has the images and of one in memory, which has secrets. Overlay over mapped layers is older (Linux 5.19) than the latter (6.3).
func (s *Service) probeUsers() error {
	some := []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	var users *os.File
	err := withNamespaces(0, oci.IDMap{UIDs: some, GIDs: some}, func(path func(string) string) (err error) {
		users, err = os.Open(path("user"))
		return err
	})
	if err != nil {
		return err
	}
	defer users.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.cfg.DataDir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: s.cfg.DataDir, Err: err}
	}
	defer unix.Close(tree)
	if err := snapshot.MapIDs(tree, users, 0); err != nil {
		return fmt.Errorf("map the IDs of %s: %w", s.cfg.DataDir, err)
	}
	memory, err := newTmpfs()
	if err != nil {
		return err
	}
	defer unix.Close(memory)
	if err := snapshot.MapIDs(memory, users, 0); err != nil {
		return fmt.Errorf("map the IDs of tmpfs: %w", err)
	}
	return nil
}

// newTmpfs is a file system in memory that is mounted nowhere.
func newTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make tmpfs: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make tmpfs: %w", os.NewSyscallError("fsconfig", err))
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make tmpfs: %w", os.NewSyscallError("fsmount", err))
	}
	return mount, nil
}
