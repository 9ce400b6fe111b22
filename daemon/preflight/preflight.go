// Package preflight finds out what a machine lacks before anything fails for the lack of it. Each check tries the real
// thing, in namespaces that vanish with it, and says how to mend what does not work.
package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Severity says what a finding means.
type Severity int

const (
	// OK is a check that passed.
	OK Severity = iota
	// Warning is something that works less well.
	Warning
	// Fatal is something without which no Pod can run.
	Fatal
)

func (s Severity) String() string { return [...]string{"ok", "warning", "FAILED"}[s] }

// Finding is the outcome of one check.
type Finding struct {
	Check    string
	Severity Severity
	// Found says what is there; Fix, on a Warning or Fatal one, what to do.
	Found, Fix string
}

// check is one question to the machine.
type check struct {
	name string
	run  func(dataDir string) Finding
}

// checks are in the order in which one failing explains the next.
var checks = []check{
	{"root", checkRoot},
	{"kernel", checkKernel},
	{"cgroups", checkCgroups},
	{"overlayfs", checkOverlay},
	{"network", checkNetwork},
	{"seccomp", checkSeccomp},
	{"oom score", checkOOMScore},
	{"inotify", checkInotify},
	{"disk", checkDisk},
	{"mounts", checkMounts},
}

// Run makes every check. dataDir need not exist. It takes some tens of milliseconds and leaves nothing behind.
func Run(dataDir string) []Finding {
	out := make([]Finding, 0, len(checks))
	for _, c := range checks {
		f := c.run(dataDir)
		f.Check = c.name
		out = append(out, f)
	}
	return out
}

func checkRoot(string) Finding {
	if uid := os.Geteuid(); uid != 0 {
		return Finding{Severity: Fatal, Found: fmt.Sprintf("user ID %d", uid), Fix: "run peapod as root (sudo)"}
	}
	return Finding{Found: "running as root"}
}

// The kernel must have openat2 (5.6), clone3 with cgroup and PIDFD_NONBLOCK (5.10).
const minMajor, minMinor = 5, 10

// The kernel must map the IDs of tmpfs (6.3) for user namespaces of Pods.
const usersMajor, usersMinor = 6, 3

func checkKernel(string) Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{Severity: Fatal, Found: err.Error(), Fix: "run on Linux"}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return Finding{Severity: Warning, Found: "kernel " + release, Fix: fmt.Sprintf("make sure that it is at least %d.%d", minMajor, minMinor)}
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return Finding{Severity: Fatal, Found: "kernel " + release, Fix: fmt.Sprintf("upgrade to a kernel of at least %d.%d", minMajor, minMinor)}
	}
	if major < usersMajor || major == usersMajor && minor < usersMinor {
		return Finding{Severity: Warning, Found: "kernel " + release,
			Fix: fmt.Sprintf("for Pods with hostUsers: false, which do not start, upgrade to a kernel of at least %d.%d; all else works", usersMajor, usersMinor)}
	}
	return Finding{Found: "kernel " + release}
}

func checkCgroups(string) Finding {
	const root = "/sys/fs/cgroup"
	need := []string{"cpu", "memory", "pids"}
	kind, have := "v1", map[string]bool{}
	if b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
		kind = "v2"
		for _, c := range strings.Fields(string(b)) {
			have[c] = true
		}
	} else {
		for _, c := range need {
			_, err := os.Stat(filepath.Join(root, c, "cgroup.procs"))
			have[c] = err == nil
		}
	}
	var missing []string
	for _, c := range need {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return Finding{Severity: Fatal, Found: fmt.Sprintf("cgroup %s without %s", kind, strings.Join(missing, ", ")),
			Fix: "boot with cgroup_enable=memory (and swapaccount=1 for v1), or delegate these controllers to this machine"}
	}
	return Finding{Found: fmt.Sprintf("cgroup %s with %s", kind, strings.Join(need, ", "))}
}

func checkSeccomp(string) Finding {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(b), "errno") {
		return Finding{Severity: Fatal, Found: "no seccomp filters", Fix: "use a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Finding{Found: "filters available"}
}

func checkOOMScore(string) Finding {
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return Finding{Severity: Warning, Found: err.Error(), Fix: "give the process CAP_SYS_RESOURCE"}
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return Finding{Severity: Warning, Found: "no CAP_SYS_RESOURCE: guaranteed Pods get no protection from the kernel's OOM killer",
			Fix: "give the process CAP_SYS_RESOURCE"}
	}
	return Finding{Found: "may be lowered"}
}

// minInotify is enough for some hundred Pods whose processes watch files.
const minInotify = 512

func checkInotify(string) Finding {
	const file = "/proc/sys/fs/inotify/max_user_instances"
	var n int
	b, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(b), &n)
	}
	if err != nil {
		return Finding{Severity: Warning, Found: err.Error(), Fix: "use a kernel with CONFIG_INOTIFY_USER"}
	}
	if n < minInotify {
		return Finding{Severity: Warning, Found: fmt.Sprintf("%d instances a user", n),
			Fix: fmt.Sprintf("sysctl -w fs.inotify.max_user_instances=%d (programs in Pods fail with \"too many open files\" without)", minInotify)}
	}
	return Finding{Found: fmt.Sprintf("%d instances a user", n)}
}

// Below minDisk there is no room for images, below minDiskPercent the node takes no more Pods: it is the kubelet's threshold
// of the images' file system.
const (
	minDisk        = 1 << 30
	minDiskPercent = 15
)

// existing is dir, or what there is of the way to it.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func checkDisk(dataDir string) Finding {
	dir := existing(dataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Finding{Severity: Fatal, Found: fmt.Sprintf("%s: %v", dir, err), Fix: "choose another --data-dir"}
	}
	free := st.Bavail * uint64(st.Bsize)
	found := fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), dataDir)
	if free < minDisk {
		return Finding{Severity: Warning, Found: found, Fix: "free at least 1 GiB, or choose another --data-dir"}
	}
	if size := st.Blocks * uint64(st.Bsize); free < size/100*minDiskPercent {
		return Finding{Severity: Warning, Found: found, Fix: fmt.Sprintf("free %d %% of the disk, or start with --eviction-hard=imagefs.available<5%%,nodefs.available<5%%: the node takes no Pods otherwise (DiskPressure)", minDiskPercent)}
	}
	return Finding{Found: found}
}
