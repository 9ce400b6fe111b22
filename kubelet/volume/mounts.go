package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/mountpoint"
	"github.com/peapod/peapod/kubelet/criconfig"
)

// Mounts implements pod.Volumes.
func (m *Manager) Mounts(_ context.Context, p *v1.Pod, c *v1.Container, env map[string]string) ([]*runtimeapi.Mount, error) {
	out := make([]*runtimeapi.Mount, 0, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v := volumeOf(p, vm.Name)
		if v == nil {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		mount, err := m.mount(p, c, i, vm, v, env)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	return out, nil
}

// Devices implements pod.Volumes.
func (m *Manager) Devices(_ context.Context, p *v1.Pod, c *v1.Container) ([]*runtimeapi.Device, error) {
	var out []*runtimeapi.Device
	for i := range c.VolumeDevices {
		d := &c.VolumeDevices[i]
		have, ok := m.claimOf(p.UID, d.Name)
		if !ok || !have.block {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		// A directory in its place would stand for all devices in it.
		if err := expect(have.path, "block device", isBlockDevice); err != nil {
			return nil, fmt.Errorf("volume %q: %w", d.Name, err)
		}
		permissions := "mrw"
		if have.readOnly {
			permissions = "r"
		}
		out = append(out, &runtimeapi.Device{HostPath: have.path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return out, nil
}

// claimOf returns what a claim of a Pod that is prepared stands for.
func (m *Manager) claimOf(uid types.UID, name string) (claimed, bool) {
	m.mu.Lock()
	pv := m.pods[uid]
	m.mu.Unlock()
	if pv == nil {
		return claimed{}, false
	}
	return pv.claimOf(name)
}

func volumeOf(p *v1.Pod, name string) *v1.Volume {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == name {
			return &p.Spec.Volumes[i]
		}
	}
	return nil
}

func (m *Manager) mount(p *v1.Pod, c *v1.Container, index int, vm *v1.VolumeMount, v *v1.Volume, env map[string]string) (*runtimeapi.Mount, error) {
	out := &runtimeapi.Mount{
		ContainerPath: vm.MountPath,
		Readonly:      vm.ReadOnly || filesOnly(v),
		Propagation:   propagation(vm.MountPropagation),
	}
	if !path.IsAbs(out.ContainerPath) {
		out.ContainerPath = path.Join("/", out.ContainerPath)
	}
	recursive, err := recursiveReadOnly(vm)
	if err != nil {
		return nil, err
	}
	out.RecursiveReadOnly = recursive
	sub, err := subPathOf(vm, env)
	if err != nil {
		return nil, err
	}
	if v.Image != nil {
		out.Image = &runtimeapi.ImageSpec{Image: v.Image.Reference, UserSpecifiedImage: v.Image.Reference}
		out.ImageSubPath = sub
		out.Readonly = true
		return out, nil
	}
	switch {
	case v.HostPath != nil:
		out.HostPath = v.HostPath.Path
	case usesClaim(v), v.CSI != nil:
		have, ok := m.claimOf(p.UID, v.Name)
		if !ok {
			return nil, fmt.Errorf("volume %q of container %q is not set up", vm.Name, c.Name)
		}
		out.HostPath = have.path
		out.Readonly = out.Readonly || have.readOnly
		out.MountOptions = have.options
	default:
		out.HostPath = m.volumeDir(p.UID, v)
	}
	if sub == "" {
		return out, nil
	}
	target := filepath.Join(m.podDir(p.UID), "volume-subpaths", v.Name, c.Name, strconv.Itoa(index))
	if err := bindSubPath(out.HostPath, sub, target, !out.Readonly); err != nil {
		return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
	}
	out.HostPath = target
	return out, nil
}

// filesOnly says whether the volume is made from API objects: such are read-only to containers.
func filesOnly(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

func propagation(mode *v1.MountPropagationMode) runtimeapi.MountPropagation {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *mode {
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// recursiveReadOnly says whether mounts below are to be read-only too (KEP-3857). Linux has that since 5.12.
func recursiveReadOnly(vm *v1.VolumeMount) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !vm.ReadOnly {
		return false, fmt.Errorf("volumeMount %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	return true, nil
}

func subPathOf(vm *v1.VolumeMount, env map[string]string) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		missing := ""
		sub = criconfig.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			v, ok := env[name]
			if !ok {
				missing = name
			}
			return v, ok
		})
		if missing != "" {
			return "", fmt.Errorf("failed to expand subPathExpr of volumeMount %q: missing value for %q", vm.Name, missing)
		}
	}
	if sub == "" {
		return "", nil
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("subPath %q of volumeMount %q must not be an absolute path", sub, vm.Name)
	}
	for _, element := range strings.Split(sub, "/") {
		if element == ".." {
			return "", fmt.Errorf("subPath %q of volumeMount %q must not contain \"..\"", sub, vm.Name)
		}
	}
	return filepath.Clean(sub), nil
}

// bindSubPath binds what lies at sub in the volume onto target. The Pod may own the volume's content and change it at any
// time, so sub is resolved by the kernel, within the volume, to an open file, and that file is what is bound: no path is
// looked at twice (CVE-2017-1002101). With create, a directory is made where there is nothing. It is idempotent.
func bindSubPath(volume, sub, target string, create bool) error {
	if mounted, err := mountpoint.At(target); err == nil && mounted {
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount old subpath: %w", err)
		}
	}
	root, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	fd, err := openBeneath(root, sub)
	if errors.Is(err, unix.ENOENT) && create {
		if err = makeBeneath(root, sub); err == nil {
			fd, err = openBeneath(root, sub)
		}
	}
	if err != nil {
		return fmt.Errorf("open %q in volume: %w", sub, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %q in volume: %w", sub, err)
	}
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %q: %w", sub, err)
	}
	return nil
}

// openBeneath opens path in the directory root for use as a mount's source. Links are followed as long as they stay in it.
func openBeneath(root int, path string) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
}

// makeBeneath makes the directory path in root and those on the way, with the mode of the volume itself. A directory that
// was there keeps its own.
func makeBeneath(root int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return fmt.Errorf("look at volume: %w", err)
	}
	parent, err := unix.Dup(root)
	if err != nil {
		return err
	}
	defer func() { unix.Close(parent) }()
	for _, element := range strings.Split(path, "/") {
		made := unix.Mkdirat(parent, element, st.Mode&0o777)
		if made != nil && made != unix.EEXIST {
			return fmt.Errorf("make %q: %w", element, made)
		}
		how := &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
		next, err := unix.Openat2(parent, element, how)
		if err != nil {
			return fmt.Errorf("open %q: %w", element, err)
		}
		unix.Close(parent)
		parent = next
		if made != nil {
			continue
		}
		// The umask has taken from the mode, and setgid was not in it.
		if err := unix.Fchmod(parent, st.Mode&0o7777); err != nil {
			return fmt.Errorf("set mode of %q: %w", element, err)
		}
	}
	return nil
}

// makeTarget makes what the subpath is mounted on, in a directory that is the kubelet's alone.
func makeTarget(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("make subpath directory: %w", err)
	}
	if dir {
		if err := os.Mkdir(target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make subpath: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return fmt.Errorf("make subpath: %w", err)
	}
	return f.Close()
}
