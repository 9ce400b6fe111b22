package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
	"github.com/peapod/peapod/runtime/oci"
)

// memorySize bounds what a Pod has in memory besides its processes' own: its /dev/shm, as Docker does, and the sandbox's files. In bytes.
const memorySize = 64 << 20

// makeNamespaces makes the sandbox's namespaces and pins each by a bind mount: they need no process to live.
func (s *Service) makeNamespaces(e *sandboxEntry, sysctls []oci.Sysctl) error {
	kinds := map[string]int{}
	if !e.hostNetwork() {
		kinds["net"], kinds["uts"] = unix.CLONE_NEWNET, unix.CLONE_NEWUTS
	}
	if !e.hostIPC() {
		kinds["ipc"] = unix.CLONE_NEWIPC
	}
	users := e.users()
	if users.Private() {
		kinds["user"] = unix.CLONE_NEWUSER
	}
	flags := 0
	for kind, flag := range kinds {
		flags |= flag
		f, err := os.OpenFile(s.nsPath(e.ID, kind), os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return fmt.Errorf("pin %s namespace: %w", kind, err)
		}
		f.Close()
	}
	if flags == 0 {
		return nil
	}
	pin := func(path func(kind string) string) error {
		for kind := range kinds {
			if err := unix.Mount(path(kind), s.nsPath(e.ID, kind), "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("pin %s namespace: %w", kind, err)
			}
		}
		return nil
	}
	if users.Private() {
		return s.makeUserNamespace(e, flags, sysctls, pin)
	}
	return ownthread.Run(func() error {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		if err := setUpNamespaces(e, sysctls); err != nil {
			return err
		}
		return pin(func(kind string) string { return "/proc/thread-self/ns/" + kind })
	})
}

// makeUserNamespace makes and pins namespaces that belong to a user namespace, and sets them up from outside of that one.
func (s *Service) makeUserNamespace(e *sandboxEntry, flags int, sysctls []oci.Sysctl, pin func(func(kind string) string) error) error {
	if err := withNamespaces(flags, e.users(), pin); err != nil {
		return err
	}
	return ownthread.Run(func() error {
		for kind, flag := range map[string]int{"net": unix.CLONE_NEWNET, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC} {
			f, err := os.Open(s.nsPath(e.ID, kind))
			if err != nil {
				return fmt.Errorf("open %s namespace: %w", kind, err)
			}
			err = unix.Setns(int(f.Fd()), flag)
			f.Close()
			if err != nil {
				return fmt.Errorf("enter %s namespace: %w", kind, err)
			}
		}
		return setUpNamespaces(e, sysctls)
	})
}

// setUpNamespaces runs on a thread in the new namespaces.
func setUpNamespaces(e *sandboxEntry, sysctls []oci.Sysctl) error {
	if !e.hostNetwork() {
		hostname, err := e.hostname()
		if err != nil {
			return err
		}
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", hostname, err)
		}
		// Any user may bind low ports and send pings: inside a network of the Pod's own neither is a privilege. As containerd does.
		for path, value := range map[string]string{"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0 2147483647"} {
			if err := setSysctl(path, value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	for _, sysctl := range sysctls {
		if err := setOwnSysctl(e.users(), sysctl); err != nil {
			return err
		}
	}
	return nil
}

// setOwnSysctl sets a sysctl of the sandbox's namespaces. What belongs to its IPC namespace only the root of its user namespace may
// set, whatever capabilities another has, so the thread becomes that user meanwhile.
func setOwnSysctl(users oci.IDMap, sysctl oci.Sysctl) error {
	uid, _, err := users.Host(0, 0)
	if err != nil {
		return err
	}
	if uid == 0 || strings.HasPrefix(sysctl.Path, "net/") {
		return setSysctl(sysctl.Path, sysctl.Value)
	}
	return asUser(uid, false, func() error { return setSysctl(sysctl.Path, sysctl.Value) })
}

func setSysctl(path, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", path), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", path, err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s to %q: %w", path, value, err)
	}
	return nil
}

// mountMemory mounts the sandbox's part of memory at path. It holds the files that its containers share, which they may write to, and, with
// shm, the directory that they get as /dev/shm: whatever they write is the Pod's, and bounded.
func mountMemory(path string, users oci.IDMap, shm bool) error {
	uid, gid, err := users.Host(0, 0)
	if err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o711); err != nil {
		return fmt.Errorf("make directory of the sandbox's files: %w", err)
	}
	options := fmt.Sprintf("mode=0711,size=%d", memorySize)
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount directory of the sandbox's files: %w", err)
	}
	if !shm {
		return nil
	}
	dir := filepath.Join(path, "shm")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, int(uid), int(gid)), os.Chmod(dir, 0o777|os.ModeSticky)); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	return nil
}

// unmount detaches what is mounted at path, all layers of it; nothing mounted and nothing there are no errors.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// clearRun unmounts everything directly below a sandbox's or container's run directory and removes it.
func clearRun(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := unmount(path); err != nil {
			return err
		}
		// Not RemoveAll: should something still be mounted, its content must live.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("clear %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	return nil
}

// isPinned reports whether a namespace is mounted at path: a reboot leaves a plain file, or none.
func isPinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
