package volume

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/internal/mountpoint"
)

// setUpEmptyDir makes an empty directory that lives as long as the Pod, on disk or in memory.
func (m *Manager) setUpEmptyDir(p *v1.Pod, v *v1.Volume) error {
	dir := m.volumeDir(p.UID, v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	mode := os.FileMode(0o777)
	switch medium := v.EmptyDir.Medium; {
	case medium == v1.StorageMediumDefault:
	case medium == v1.StorageMediumMemory:
		options := "mode=1777"
		mode |= os.ModeSticky // as of any tmpfs, which Kubernetes leaves so
		if size := memorySize(p, v.EmptyDir.SizeLimit); size > 0 {
			options += fmt.Sprintf(",size=%d", size)
		}
		if err := mountMemory(dir, "tmpfs", unix.TMPFS_MAGIC, options); err != nil {
			return err
		}
	case medium == v1.StorageMediumHugePages, strings.HasPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)):
		size, err := pageSize(p, medium)
		if err != nil {
			return err
		}
		options := fmt.Sprintf("mode=0777,pagesize=%d", size)
		if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Value() > 0 {
			options += fmt.Sprintf(",size=%d", limit.Value())
		}
		if err := mountMemory(dir, "hugetlbfs", unix.HUGETLBFS_MAGIC, options); err != nil {
			return err
		}
	default:
		return fmt.Errorf("storage medium %q is not supported by this node", medium)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("set mode of directory: %w", err)
	}
	if gid := fsGroup(p); gid != nil {
		return ownTree(dir, int(*gid), p.Spec.SecurityContext.FSGroupChangePolicy)
	}
	return nil
}

// memorySize is how large a volume in memory may grow: its limit, or less where the Pod's memory limit is less; zero for
// the kernel's default of half the memory.
func memorySize(p *v1.Pod, limit *resource.Quantity) int64 {
	var size int64
	if limit != nil {
		size = limit.Value()
	}
	all := true
	for i := range p.Spec.Containers {
		_, ok := p.Spec.Containers[i].Resources.Limits[v1.ResourceMemory]
		all = all && ok
	}
	if all || resourcehelper.IsPodLevelLimitsSet(p) {
		limits := resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{})
		if q, ok := limits[v1.ResourceMemory]; ok && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	return size
}

// pageSize is how large the huge pages of a volume are, in bytes: what the medium says, or what the Pod's containers ask
// for where it says no more than that they are huge. The containers must ask for such pages, else they could use none.
func pageSize(p *v1.Pod, medium v1.StorageMedium) (int64, error) {
	wanted := int64(0)
	if text, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); ok {
		q, err := resource.ParseQuantity(text)
		if err != nil || q.Value() <= 0 {
			return 0, fmt.Errorf("medium %s: %q is no size of a page", medium, text)
		}
		wanted = q.Value()
	}
	asked := map[int64]bool{}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for name := range list[i].Resources.Requests {
				text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
				if !ok {
					continue
				}
				q, err := resource.ParseQuantity(text)
				if err != nil {
					return 0, fmt.Errorf("resource %s: %q is no size of a page", name, text)
				}
				asked[q.Value()] = true
			}
		}
	}
	switch {
	case wanted != 0 && asked[wanted]:
		return wanted, nil
	case wanted == 0 && len(asked) == 1:
		for size := range asked {
			return size, nil
		}
	case wanted == 0 && len(asked) > 1:
		return 0, fmt.Errorf("medium %s cannot be used if containers request huge pages of several sizes: name one in the medium", medium)
	}
	return 0, fmt.Errorf("medium %s is requested, but no container requests such huge pages", medium)
}

// mountMemory mounts a file system of that kind at dir unless it has one.
func mountMemory(dir, kind string, magic int64, options string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == magic {
		mounted, err := mountpoint.At(dir)
		if err != nil || mounted {
			return err
		}
	}
	if err := unix.Mount(kind, dir, kind, unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount %s: %w", kind, err)
	}
	return nil
}

// ownTree gives dir and what is in it to the group gid, readable and writable for it, new files included. With the policy
// OnRootMismatch nothing is done where dir itself is right already.
func ownTree(dir string, gid int, policy *v1.PodFSGroupChangePolicy) error {
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err == nil && int(st.Gid) == gid && st.Mode&unix.S_ISGID != 0 && st.Mode&0o770 == 0o770 {
			return nil
		}
	}
	// The Pod's processes may be changing the tree: every step is on an open directory and follows no link.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open volume: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && len(path) > unix.PathMax { // else the walk would hold, of directories without end, all their paths
			err = unix.ENAMETOOLONG
		}
		if err != nil {
			return fmt.Errorf("give volume to group %d: %w", gid, err)
		}
		if err := root.Lchown(path, -1, gid); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, gid, err)
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		mode := info.Mode()&(fs.ModePerm|fs.ModeSticky) | 0o660
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		if err := root.Chmod(path, mode); err != nil {
			return fmt.Errorf("set mode of %s: %w", path, err)
		}
		return nil
	})
}
