package node

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine is what the hardware and the kernel offer; it does not change while
// this process lives, but for huge pages.
type machine struct {
	cpus      int
	memory    int64 // bytes
	swap      int64
	machineID string
	uuid      string
	bootID    string
	kernel    string
	osImage   string
}

func readMachine() (*machine, error) {
	m := &machine{cpus: runtime.NumCPU()}
	info, err := meminfo()
	if err != nil {
		return nil, err
	}
	m.memory, m.swap = info["MemTotal"], info["SwapTotal"]
	m.machineID = firstLine("/etc/machine-id", "/var/lib/dbus/machine-id")
	m.uuid = firstLine("/sys/class/dmi/id/product_uuid", "/proc/device-tree/system-id", "/proc/device-tree/vm,uuid", "/etc/machine-id")
	m.bootID = firstLine("/proc/sys/kernel/random/boot_id")
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read kernel version: %w", err)
	}
	m.kernel = unix.ByteSliceToString(u.Release[:])
	m.osImage = osImage()
	return m, nil
}

// meminfo reads /proc/meminfo, in bytes.
func meminfo() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	defer f.Close()
	out := map[string]int64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			out[name] = n * 1024
		}
	}
	if out["MemTotal"] == 0 {
		return nil, errors.New("read memory size: no MemTotal in /proc/meminfo")
	}
	return out, nil
}

// MemoryCapacity is the machine's memory in bytes.
func MemoryCapacity() (int64, error) {
	info, err := meminfo()
	return info["MemTotal"], err
}

func firstLine(paths ...string) string {
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil {
			line, _, _ := strings.Cut(string(data), "\n")
			if line = strings.Trim(line, " \t\x00"); line != "" {
				return line
			}
		}
	}
	return ""
}

func osImage() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(v, `"`)
			}
		}
	}
	return "Linux"
}

// capacity is all that the machine has, storage being that of dir's file system.
func (m *machine) capacity(dir string, pods int64) (v1.ResourceList, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("read size of file system of %s: %w", dir, err)
	}
	list := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(m.cpus), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(st.Blocks)*st.Bsize, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	const root = "/sys/kernel/mm/hugepages"
	sizes, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list huge page sizes: %w", err)
	}
	for _, s := range sizes {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(s.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(firstLine(filepath.Join(root, s.Name(), "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		size := resource.NewQuantity(kb*1024, resource.BinarySI)
		list[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(n*kb*1024, resource.BinarySI)
	}
	return list, nil
}

// allocatable is what of the capacity Pods may have: without huge pages, and
// what is kept from them.
func allocatable(capacity v1.ResourceList, kept ...v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for name, q := range capacity {
		q = q.DeepCopy()
		for _, k := range kept {
			if r, ok := k[name]; ok {
				q.Sub(r)
			}
		}
		switch name {
		case v1.ResourceMemory:
			for other, pages := range capacity {
				if strings.HasPrefix(string(other), v1.ResourceHugePagesPrefix) {
					q.Sub(pages)
				}
			}
		case v1.ResourceEphemeralStorage:
			q.Format = resource.DecimalSI
		}
		if q.Sign() < 0 {
			q.Set(0)
		}
		out[name] = q
	}
	return out
}
