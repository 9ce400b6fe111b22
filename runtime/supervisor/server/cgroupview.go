//go:build cgo

package server

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/ownthread"
)

// cgroupRoot is where containers see their cgroup.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupView is the mount of a container's own cgroup, which has one directory a hierarchy where cgroups are those of version 1.
// libcontainer's way costs a third of all that a container's start costs there: it reads the whole table of mounts, which grows with
// the containers, and resolves, mounts and looks again for each of ten hierarchies. Here they are mounted by descriptors from the
// supervisor, which knows the hierarchies, after libcontainer has set up the container and before its program runs.
type cgroupView struct {
	// flags are those of the mounts of hierarchies, MOUNT_ATTR_*.
	flags uint64
}

// takeCgroupView takes the cgroup mount out of config and returns it for mount to do, nil where it is libcontainer's to do: with
// version 2, where it is a single mount; on kernels that cannot set flags by descriptor (before 5.12); and where something else is
// mounted at /sys or below, with what is to be shared with the machine, with a label, or with users of the container's own.
func takeCgroupView(config *configs.Config) *cgroupView {
	if cgroups.IsCgroup2UnifiedMode() || !canSetAttributes() || config.MountLabel != "" || config.RootPropagation&unix.MS_SHARED != 0 {
		return nil
	}
	at, sysfs := -1, false
	for i, m := range config.Mounts {
		switch destination := path.Clean("/" + m.Destination); {
		case destination == cgroupRoot && m.Device == "cgroup" && at < 0:
			at = i
		case destination == "/sys" && m.Device == "sysfs":
			sysfs = true
		case destination == "/", destination == "/sys", strings.HasPrefix(destination, "/sys/"):
			return nil
		}
	}
	if at < 0 || !sysfs || config.Namespaces.Contains(configs.NEWCGROUP) || config.Namespaces.Contains(configs.NEWUSER) {
		return nil
	}
	flags, known := attributes(config.Mounts[at])
	if !known {
		return nil
	}
	config.Mounts = slices.Delete(slices.Clone(config.Mounts), at, at+1)
	return &cgroupView{flags: flags}
}

// canSetAttributes says whether the kernel has mount_setattr.
var canSetAttributes = sync.OnceValue(func() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
})

// attributes translates a mount's flags; false if there is one that is not among those that such a mount has.
func attributes(m *configs.Mount) (attr uint64, known bool) {
	left := m.Flags
	for _, f := range []struct {
		flag int
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME},
	} {
		if left&f.flag != 0 {
			attr |= f.attr
			left &^= f.flag
		}
	}
	return attr, left == 0 && m.ClearedFlags == 0 && len(m.PropagationFlags) == 0 && m.RecAttr == nil && m.Data == ""
}

// mount mounts the view in the container whose first process is pid. That process is libcontainer's own still, waiting to become the
// container's program: the container has set nothing up and holds nothing.
func (v *cgroupView) mount(pid int) error {
	if v == nil {
		return nil
	}
	hierarchies, err := hierarchiesOf(pid)
	if err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	err = ownthread.Run(func() error {
		tree, err := newTmpfs()
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		var clones []clone
		defer func() {
			for _, c := range clones {
				c.close()
			}
		}()
		for _, h := range hierarchies {
			c, err := v.clone(tree, h)
			if err != nil {
				return fmt.Errorf("%s: %w", h.source, err)
			}
			clones = append(clones, c)
		}
		if err := enterMounts(pid); err != nil {
			return err
		}
		target, err := openCgroupRoot()
		if err != nil {
			return err
		}
		defer unix.Close(target)
		if err := moveMount(tree, target); err != nil {
			return err
		}
		for _, c := range clones {
			if err := moveMount(c.mount, c.on); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	return nil
}

// hierarchy is one of the machine's, seen from a container's cgroup.
type hierarchy struct {
	// name is the directory's in the view, source the container's cgroup on the machine.
	name, source string
}

// hierarchiesOf lists those of version 1 with the cgroup of a process in each.
func hierarchiesOf(pid int) ([]hierarchy, error) {
	mounts, err := cgroups.GetCgroupMounts(false) // read once a process
	if err != nil {
		return nil, err
	}
	own, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	var list []hierarchy
	for _, m := range mounts {
		at, err := m.GetOwnCgroup(own)
		if err != nil {
			return nil, err
		}
		below, err := filepath.Rel(m.Root, at)
		if err != nil {
			return nil, err
		}
		list = append(list, hierarchy{name: filepath.Base(m.Mountpoint), source: filepath.Join(m.Mountpoint, below)})
	}
	return list, nil
}

// newTmpfs makes what the hierarchies are mounted on.
func newTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "755"); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return fd, os.NewSyscallError("fsmount", err)
}

// clone is a mount that is nowhere yet, and the directory that it belongs on; both descriptors.
type clone struct{ mount, on int }

func (c clone) close() {
	unix.Close(c.mount)
	unix.Close(c.on)
}

// clone prepares the mount of a hierarchy, and makes its directory in the tmpfs tree. Each controller of a hierarchy that has several
// is a link to it.
func (v *cgroupView) clone(tree int, h hierarchy) (_ clone, err error) {
	if err := unix.Mkdirat(tree, h.name, 0o755); err != nil {
		return clone{}, os.NewSyscallError("mkdirat", err)
	}
	if strings.Contains(h.name, ",") {
		for controller := range strings.SplitSeq(h.name, ",") {
			if err := unix.Symlinkat(h.name, tree, controller); err != nil {
				return clone{}, os.NewSyscallError("symlinkat", err)
			}
		}
	}
	c := clone{mount: -1}
	if c.on, err = unix.Openat(tree, h.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return clone{}, os.NewSyscallError("openat", err)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.mount, err = unix.OpenTree(unix.AT_FDCWD, h.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return clone{}, os.NewSyscallError("open_tree", err)
	}
	// Private, as all of a container's: the machine's hierarchies may be shared.
	attr := &unix.MountAttr{Attr_set: v.flags, Attr_clr: unix.MOUNT_ATTR__ATIME, Propagation: unix.MS_PRIVATE}
	return c, os.NewSyscallError("mount_setattr", unix.MountSetattr(c.mount, "", unix.AT_EMPTY_PATH, attr))
}

// enterMounts has this thread see the mounts of the process pid, its root as root.
func enterMounts(pid int) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("setns", unix.Setns(fd, unix.CLONE_NEWNS))
}

// openCgroupRoot opens the directory to mount the view on, which is the kernel's: nothing of an image or a volume.
func openCgroupRoot() (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, cgroupRoot, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, os.NewSyscallError("openat2", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fstatfs", err)
	}
	if st.Type != unix.SYSFS_MAGIC {
		unix.Close(fd)
		return -1, fmt.Errorf("%s of the container is not in a sysfs", cgroupRoot)
	}
	return fd, nil
}

func moveMount(mount, on int) error {
	return os.NewSyscallError("move_mount", unix.MoveMount(mount, "", on, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}
