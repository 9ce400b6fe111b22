package cri

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/oci"
)

// readHost finds what specifications depend on of this machine.
func readHost() *oci.Host {
	host := &oci.Host{CgroupV2: cgroups.IsCgroup2UnifiedMode(), Capabilities: ownCapabilities()}
	if host.CgroupV2 {
		// memory.swap.max is in every cgroup but the root; this process's own will do.
		own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
		if err == nil {
			_, err = os.Stat(filepath.Join("/sys/fs/cgroup", own[""], "memory.swap.max"))
		}
		host.Swap = err == nil
		controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		host.Hugetlb = err == nil && strings.Contains(string(controllers), "hugetlb")
	} else {
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		host.Swap = err == nil
		_, err = os.Stat("/sys/fs/cgroup/hugetlb")
		host.Hugetlb = err == nil
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	host.AppArmor = err == nil && strings.HasPrefix(string(enabled), "Y")
	return host
}

// loadedAppArmor lists the AppArmor profiles that the kernel has, nil where it does not show them: the file is in securityfs, which
// need not be mounted. The start of the container fails then if its profile is not there.
func loadedAppArmor() ([]string, error) {
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the list of AppArmor profiles: %w", err)
	}
	defer f.Close()
	return oci.ReadAppArmorLoaded(f)
}

// ownCapabilities are those that this process holds, and so can give.
func ownCapabilities() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil
	}
	var list []string
	for i, name := range capabilityNames {
		if data[i/32].Permitted&(1<<(i%32)) != 0 {
			list = append(list, "CAP_"+name)
		}
	}
	return list
}

// capabilityNames are the kernel's, by number.
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// readDevices finds the nodes behind requested devices. A directory stands for all nodes in it.
func readDevices(requests []*runtimeapi.Device) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	for _, r := range requests {
		host, err := filepath.EvalSymlinks(r.HostPath)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", r.HostPath, err)
		}
		found, err := devicesBelow(host, r.ContainerPath, func(string) bool { return false })
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", r.HostPath, err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("device %q is not a device node", r.HostPath)
		}
		list = append(list, found...)
	}
	return list, nil
}

// hostDevices are the machine's device nodes, less what a container gets of its own.
func hostDevices() ([]specs.LinuxDevice, error) {
	own := map[string]bool{
		"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/fd": true, "/dev/console": true, "/dev/ptmx": true,
		"/dev/.lxc": true, "/dev/.lxd-mounts": true, "/dev/.udev": true,
		"/dev/null": true, "/dev/zero": true, "/dev/full": true, "/dev/random": true, "/dev/urandom": true, "/dev/tty": true,
	}
	list, err := devicesBelow("/dev", "/dev", func(path string) bool { return own[path] })
	if err != nil {
		return nil, fmt.Errorf("list device nodes: %w", err)
	}
	return list, nil
}

func devicesBelow(host, inside string, skip func(string) bool) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // unplugged meanwhile
		}
		if err != nil {
			return err
		}
		if skip(path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil // unplugged meanwhile
		}
		kind := "b"
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			kind = "c"
		}
		mode := fs.FileMode(st.Mode & 0o777)
		uid, gid := st.Uid, st.Gid
		list = append(list, specs.LinuxDevice{
			Path: filepath.Join(inside, strings.TrimPrefix(path, host)), Type: kind,
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &uid, GID: &gid,
		})
		return nil
	})
	return list, err
}

// removeCgroup removes an empty cgroup; an absent one is no error.
func removeCgroup(path string) error {
	m, err := manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", path, err)
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}
