// Package cgroup keeps the tree of cgroups in which Pods live:
//
//	/<root>/kubepods                    everything that Pods use
//	/<root>/kubepods/pod<uid>           a Guaranteed Pod
//	/<root>/kubepods/burstable/pod<uid>
//	/<root>/kubepods/besteffort/pod<uid>
//
// Containers are below their Pod's cgroup, made by the runtime. All of cgroup
// v1, v2 and the hybrid of both work, through opencontainers/cgroups.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// Tree is the tree of one kubelet.
type Tree struct {
	root     string // "/<instance>"
	cpuMilli int64  // of the node, for the weight of all Pods together

	mu        sync.Mutex
	burstable map[types.UID]int64 // CPU requests, thousandths
}

// New describes a tree below the cgroup root ("/peapod-x"); cpuMilli is the
// node's CPU for Pods. Nothing is made yet.
func New(root string, cpuMilli int64) (*Tree, error) {
	if !path.IsAbs(root) || path.Clean(root) != root || root == "/" {
		return nil, fmt.Errorf("use cgroup root %q: must be an absolute clean path below /", root)
	}
	return &Tree{root: root, cpuMilli: cpuMilli, burstable: map[types.UID]int64{}}, nil
}

// Root is the cgroup that holds all Pods.
func (t *Tree) Root() string { return path.Join(t.root, "kubepods") }

func (t *Tree) class(q v1.PodQOSClass) string {
	switch q {
	case v1.PodQOSBurstable:
		return path.Join(t.Root(), "burstable")
	case v1.PodQOSBestEffort:
		return path.Join(t.Root(), "besteffort")
	}
	return t.Root()
}

// PodPath is the cgroup of a Pod: the parent of its containers'.
func (t *Tree) PodPath(pod *v1.Pod) string {
	return path.Join(t.class(qos.GetPodQOS(pod)), "pod"+string(pod.UID))
}

func open(p string, r *cgroups.Resources) (cgroups.Manager, error) {
	r.SkipDevices = true
	m, err := manager.New(&cgroups.Cgroup{Path: p, Resources: r})
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", p, err)
	}
	return m, nil
}

// ensure makes a cgroup, or updates it.
func ensure(p string, r *cgroups.Resources) error {
	m, err := open(p, r)
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil { // -1: make it, put no process into it
		return fmt.Errorf("make cgroup %s: %w", p, err)
	}
	if err := m.Set(r); err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", p, err)
	}
	return nil
}

func shares(milli int64) *cgroups.Resources {
	r := &cgroups.Resources{}
	setShares(r, milli)
	return r
}

func setShares(r *cgroups.Resources, milli int64) {
	s := uint64(criconfig.CPUShares(milli))
	if cgroups.IsCgroup2UnifiedMode() {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(s)
		return
	}
	r.CpuShares = s
}

// Open makes the upper levels. Idempotent.
func (t *Tree) Open() error {
	if err := ensure(t.Root(), shares(t.cpuMilli)); err != nil {
		return err
	}
	if err := ensure(t.class(v1.PodQOSBurstable), shares(0)); err != nil {
		return err
	}
	return ensure(t.class(v1.PodQOSBestEffort), shares(0))
}

// Ensure makes a Pod's cgroup with the limits that the Pod as a whole has.
// Idempotent; also used when the limits change.
func (t *Tree) Ensure(pod *v1.Pod) error {
	class := qos.GetPodQOS(pod)
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	if err := ensure(t.PodPath(pod), podResources(pod, requests, class)); err != nil {
		return err
	}
	if class != v1.PodQOSBurstable {
		return nil
	}
	return t.weigh(pod.UID, requests.Cpu().MilliValue(), true)
}

// weigh keeps the burstable class' weight at the sum of its Pods' requests.
func (t *Tree) weigh(uid types.UID, milli int64, present bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.burstable[uid]; ok == present && old == milli {
		return nil
	}
	t.burstable[uid] = milli
	if !present {
		delete(t.burstable, uid)
	}
	sum := int64(0)
	for _, m := range t.burstable {
		sum += m
	}
	r := shares(sum)
	m, err := open(t.class(v1.PodQOSBurstable), r)
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("open cgroup of burstable pods: %w", err)
	}
	if err := m.Set(r); err != nil {
		return fmt.Errorf("set weight of burstable pods: %w", err)
	}
	return nil
}

// Widen gives a Pod's cgroup the wider of the limits of two versions of the Pod,
// which are of one class. Idempotent.
func (t *Tree) Widen(from, to *v1.Pod) error {
	class := qos.GetPodQOS(to)
	a := podResources(from, resourcehelper.PodRequests(from, resourcehelper.PodResourcesOptions{}), class)
	b := podResources(to, resourcehelper.PodRequests(to, resourcehelper.PodResourcesOptions{}), class)
	b.CpuShares, b.CpuWeight = max(a.CpuShares, b.CpuShares), max(a.CpuWeight, b.CpuWeight)
	if a.CpuQuota == 0 || b.CpuQuota == 0 { // one has none: what is there stays
		b.CpuQuota, b.CpuPeriod = 0, 0
	}
	if a.Memory == 0 || b.Memory == 0 {
		b.Memory = 0
	}
	b.CpuQuota, b.Memory = max(a.CpuQuota, b.CpuQuota), max(a.Memory, b.Memory)
	return ensure(t.PodPath(to), b)
}

// MemoryLimit is the limit of a Pod's cgroup in bytes, 0 for none.
func (t *Tree) MemoryLimit(pod *v1.Pod) int64 {
	return podResources(pod, nil, qos.GetPodQOS(pod)).Memory
}

// Memory is what a Pod's cgroup uses, in bytes.
func (t *Tree) Memory(pod *v1.Pod) (int64, error) {
	m, err := open(t.PodPath(pod), &cgroups.Resources{})
	if err != nil {
		return 0, err
	}
	dir, file := m.Path("memory"), "memory.usage_in_bytes"
	if cgroups.IsCgroup2UnifiedMode() {
		dir, file = m.Path(""), "memory.current"
	}
	data, err := cgroups.ReadFile(dir, file)
	if err != nil {
		return 0, fmt.Errorf("read memory of cgroup %s: %w", t.PodPath(pod), err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory of cgroup %s: %w", t.PodPath(pod), err)
	}
	return n, nil
}

// podResources are the limits of the Pod's own cgroup: those that all of its
// containers have.
func podResources(pod *v1.Pod, requests v1.ResourceList, class v1.PodQOSClass) *cgroups.Resources {
	r := shares(requests.Cpu().MilliValue())
	if class == v1.PodQOSBestEffort {
		return r
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	cpu, memory := true, true
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			l := list[i].Resources.Limits
			cpu = cpu && !l.Cpu().IsZero()
			memory = memory && !l.Memory().IsZero()
		}
	}
	if pod.Spec.Resources != nil {
		cpu = cpu || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memory = memory || !pod.Spec.Resources.Limits.Memory().IsZero()
	}
	if cpu {
		r.CpuQuota, r.CpuPeriod = criconfig.CPUQuota(limits.Cpu().MilliValue()), 100_000
	}
	if memory {
		r.Memory = limits.Memory().Value()
	}
	return r
}

// Remove removes a Pod's cgroup wherever in the tree it is. Idempotent. The Pod's
// containers have ended: a process that lives in it yet is none of any, and is
// killed, as Kubernetes' kubelet does.
func (t *Tree) Remove(ctx context.Context, uid types.UID) error {
	if err := t.weigh(uid, 0, false); err != nil {
		return err
	}
	var errs []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		p := path.Join(t.class(class), "pod"+string(uid))
		errs = append(errs, RemoveAll(ctx, p))
	}
	return errors.Join(errs...)
}

// Exists says whether a cgroup is in any hierarchy.
func Exists(p string) (bool, error) {
	mounts, err := hierarchies()
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if _, err := os.Stat(filepath.Join(m, p)); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

// RemoveAll deletes one cgroup and what is below it in every hierarchy, and kills the
// processes in them first. Idempotent.
func RemoveAll(ctx context.Context, p string) error {
	mounts, err := hierarchies()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		dir := filepath.Join(m, p)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := cgroups.RemovePath(dir)
		if errors.Is(err, unix.EBUSY) {
			if err = killBelow(ctx, dir, p); err == nil {
				err = cgroups.RemovePath(dir)
			}
		}
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// killBelow kills the processes of the cgroup p and of those below it, which dir
// is in one hierarchy, and waits for their ends.
func killBelow(ctx context.Context, dir, p string) error {
	pids, err := cgroups.GetAllPids(dir)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, pid := range pids {
		if err := killIn(p, pid); err != nil {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
		klog.FromContext(ctx).Info("Killed a process that was left", "pid", pid, "cgroup", p)
	}
	return nil
}

// endTimeout is how long the end of a process that was killed is waited for, in
// milliseconds.
const endTimeout = 5000

// killIn kills a process of the cgroup. It is looked for after its descriptor was
// opened, so that another one that got its number is left alone.
func killIn(p string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	groups, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	member := false
	for _, at := range groups {
		member = member || at == p || strings.HasPrefix(at, p+"/")
	}
	if !member {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, endTimeout); err != nil && !errors.Is(err, unix.EINTR) || n == 0 {
		return fmt.Errorf("it does not end (%v)", err)
	}
	return nil
}

// Pods are the UIDs of all Pods that have a cgroup in the tree.
func (t *Tree) Pods() (map[types.UID]bool, error) {
	mounts, err := hierarchies()
	if err != nil {
		return nil, err
	}
	out := map[types.UID]bool{}
	for _, m := range mounts {
		for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
			entries, err := os.ReadDir(filepath.Join(m, t.class(class)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("list pod cgroups: %w", err)
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					out[types.UID(uid)] = true
				}
			}
		}
	}
	return out, nil
}

// hierarchies are the mount points of all hierarchies that Pods' cgroups can be in.
func hierarchies() ([]string, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return []string{"/sys/fs/cgroup"}, nil
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	var out []string
	for _, m := range mounts {
		out = append(out, m.Mountpoint)
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		out = append(out, "/sys/fs/cgroup/unified")
	}
	return out, nil
}
