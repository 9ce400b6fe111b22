package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultMounts are every container's kernel file systems. A privileged one may write to /sys and its cgroup.
func defaultMounts(in *Input, privileged bool) []specs.Mount {
	access := "ro"
	if privileged {
		access = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{
			"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{
			"nosuid", "noexec", "nodev", "relatime", access}},
	}
	return append(list, in.Files...)
}

// mounts are the default ones, except where the container mounts something itself, then the container's, parents first. The second
// result is the propagation that the root needs for theirs.
func mounts(in *Input, privileged bool) ([]specs.Mount, string, error) {
	var own []specs.Mount
	propagation := ""
	for _, m := range in.Config.Mounts {
		mount, root, err := bind(m, in.IDs)
		if err != nil {
			return nil, "", err
		}
		if root == "rshared" || propagation == "" {
			propagation = root
		}
		own = append(own, mount)
	}
	list := slices.DeleteFunc(defaultMounts(in, privileged), func(d specs.Mount) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool { return m.Destination == d.Destination })
	})
	slices.SortStableFunc(own, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return append(list, own...), propagation, nil
}

func depth(p string) int {
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

// MapIDs is the option of a mount whose files belong to the same IDs in the container's user namespace as they do on disk. What is
// mounted below its source is not mapped, as with containerd.
const MapIDs = "idmap"

// mountOptions are those that a Mount may ask for besides.
var mountOptions = []string{"noexec", "exec", "nosuid", "suid", "nodev", "dev", "noatime", "relatime", "nosymfollow"}

// bind converts one mount; root is the propagation that the container's root needs for it.
func bind(m *runtimeapi.Mount, ids IDMap) (mount specs.Mount, root string, err error) {
	if m.ContainerPath == "" || strings.ContainsRune(m.ContainerPath, 0) {
		return mount, "", fmt.Errorf("mount of %q: bad container path %q", m.HostPath, m.ContainerPath)
	}
	if m.HostPath == "" {
		return mount, "", fmt.Errorf("mount on %q: no host path", m.ContainerPath)
	}
	mount = specs.Mount{Destination: path.Clean("/" + m.ContainerPath), Source: m.HostPath, Type: "bind", Options: []string{"rbind"}}
	if mount.Destination == "/" {
		return mount, "", fmt.Errorf("mount of %q: the root cannot be mounted over", m.HostPath)
	}
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		mount.Options = append(mount.Options, "rprivate")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		mount.Options = append(mount.Options, "rslave")
		root = "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		if ids.Private() {
			// The kernel makes every mount of a new user namespace a slave of the machine's.
			return mount, "", fmt.Errorf("mount on %q: propagation Bidirectional is not possible in a user namespace: what is mounted there does not reach the machine; set hostUsers, or HostToContainer",
				m.ContainerPath)
		}
		mount.Options = append(mount.Options, "rshared")
		root = "rshared"
	default:
		return mount, "", fmt.Errorf("mount on %q: unknown propagation %s", m.ContainerPath, m.Propagation)
	}
	switch {
	case m.RecursiveReadOnly && !m.Readonly:
		return mount, "", fmt.Errorf("mount on %q: recursive read-only needs read-only", m.ContainerPath)
	case m.RecursiveReadOnly && m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return mount, "", fmt.Errorf("mount on %q: recursive read-only needs private propagation", m.ContainerPath)
	case m.RecursiveReadOnly:
		mount.Options = append(mount.Options, "rro")
	case m.Readonly:
		mount.Options = append(mount.Options, "ro")
	default:
		mount.Options = append(mount.Options, "rw")
	}
	for _, o := range m.MountOptions {
		if !slices.Contains(mountOptions, o) {
			return mount, "", fmt.Errorf("mount on %q: option %q is not supported", m.ContainerPath, o)
		}
		mount.Options = append(mount.Options, o)
	}
	switch want := (IDMap{UIDs: idMappings(m.UidMappings), GIDs: idMappings(m.GidMappings)}); {
	case !want.Private():
	case want.Equal(ids):
		mount.Options = append(mount.Options, MapIDs)
	default:
		mount.UIDMappings, mount.GIDMappings = want.UIDs, want.GIDs
	}
	return mount, root, nil
}
