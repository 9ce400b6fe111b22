package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ticksPerSecond is the unit of /proc's times (USER_HZ), the same on every
// architecture that Linux runs Go on.
const ticksPerSecond = 100

// host reads a machine's counters from its proc file system.
type host struct {
	proc string

	once sync.Once
	boot time.Time
}

func (h *host) read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(h.proc, name))
	if err != nil {
		return "", fmt.Errorf("read the machine's counters: %w", err)
	}
	return string(b), nil
}

// Memory is the machine's memory in bytes, counted as the node's cgroup counts
// it: the working set is all that is not free but for file pages that nobody
// used of late, and what is available is the rest.
type Memory struct {
	Capacity, Available, Usage, WorkingSet, Anonymous uint64
	SwapTotal, SwapFree                               uint64
}

// ReadMemory reads a meminfo file, usually /proc/meminfo. Cost: tens of
// microseconds.
func ReadMemory(path string) (Memory, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Memory{}, fmt.Errorf("read memory: %w", err)
	}
	var free, inactive uint64
	m := Memory{}
	fields := map[string]*uint64{
		"MemTotal": &m.Capacity, "MemFree": &free, "Inactive(file)": &inactive, "AnonPages": &m.Anonymous,
		"SwapTotal": &m.SwapTotal, "SwapFree": &m.SwapFree,
	}
	for line := range bytes.Lines(b) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		to := fields[string(name)]
		if to == nil {
			continue
		}
		number, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
		kb, err := strconv.ParseUint(string(number), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("read memory: %s: %w", name, err)
		}
		*to = kb * 1024
	}
	if m.Capacity == 0 {
		return Memory{}, fmt.Errorf("read memory: %s names no MemTotal", path)
	}
	m.Usage = m.Capacity - min(free, m.Capacity)
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	m.Available = m.Capacity - m.WorkingSet
	return m, nil
}

// Processes is how many processes and threads the machine has and may have.
type Processes struct{ Running, Max uint64 }

// ReadProcesses reads both from a proc file system, usually /proc.
func ReadProcesses(proc string) (Processes, error) {
	var p Processes
	load, err := os.ReadFile(filepath.Join(proc, "loadavg"))
	if err != nil {
		return p, fmt.Errorf("read number of processes: %w", err)
	}
	if f := strings.Fields(string(load)); len(f) > 3 {
		_, all, _ := strings.Cut(f[3], "/")
		if p.Running, err = strconv.ParseUint(all, 10, 64); err != nil {
			return p, fmt.Errorf("read number of processes: %w", err)
		}
	}
	for _, name := range []string{"pid_max", "threads-max"} {
		b, err := os.ReadFile(filepath.Join(proc, "sys/kernel", name))
		if err != nil {
			return p, fmt.Errorf("read limit of processes: %w", err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return p, fmt.Errorf("read limit of processes: %w", err)
		}
		if p.Max == 0 || n < p.Max {
			p.Max = n
		}
	}
	return p, nil
}

// cpu is the CPU time that the machine spent, guests' counted once, in
// nanoseconds; it also learns when the machine started.
func (h *host) cpu() (uint64, error) {
	text, err := h.read("stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(firstLineOf(text))
	if len(f) < 9 || f[0] != "cpu" {
		return 0, errors.New("read the machine's counters: stat has no line for the CPU")
	}
	h.once.Do(func() {
		for line := range strings.Lines(text) {
			if s, ok := strings.CutPrefix(line, "btime "); ok {
				if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
					h.boot = time.Unix(n, 0)
				}
			}
		}
	})
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system, irq softirq steal; not idle and iowait
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the machine's counters: stat: %w", err)
		}
		ticks += n
	}
	return ticks * (uint64(time.Second) / ticksPerSecond), nil
}

func firstLineOf(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// pressure is the kernel's measure of how long work waits; nil where it is not
// measured.
func (h *host) pressure(of string) *statsapi.PSIStats {
	text, err := h.read("pressure/" + of)
	if err != nil {
		return nil // not built in, or switched off
	}
	out := &statsapi.PSIStats{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 5 {
			continue
		}
		to := &out.Some
		if f[0] == "full" {
			to = &out.Full
		}
		for _, pair := range f[1:] {
			name, v, _ := strings.Cut(pair, "=")
			x, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return nil
			}
			switch name {
			case "avg10":
				to.Avg10 = x
			case "avg60":
				to.Avg60 = x
			case "avg300":
				to.Avg300 = x
			case "total":
				to.Total = uint64(x) * uint64(time.Microsecond) // nanoseconds, as cgroups' are told
			}
		}
	}
	return out
}

// faults are the page faults since the machine started.
func (h *host) faults() (all, major *uint64) {
	text, err := h.read("vmstat")
	if err != nil {
		return nil, nil
	}
	for line := range strings.Lines(text) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(v, 10, 64)
		switch {
		case err != nil:
		case name == "pgfault":
			all = &n
		case name == "pgmajfault":
			major = &n
		}
	}
	return all, major
}

// network tells the machine's interfaces, without loopback and the ends of
// Pods' links. The default one is that of the default route.
func (h *host) network(at time.Time) (*statsapi.NetworkStats, error) {
	text, err := h.read("net/dev")
	if err != nil {
		return nil, err
	}
	routed := ""
	if routes, err := h.read("net/route"); err == nil {
		for line := range strings.Lines(routes) {
			if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && routed == "" {
				routed = f[0]
			}
		}
	}
	out := &statsapi.NetworkStats{Time: stamp(at)}
	for line := range strings.Lines(text) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		name = strings.TrimSpace(name)
		if !ok || len(f) < 16 || name == "lo" || (name != routed && podLink(name)) {
			continue
		}
		i := statsapi.InterfaceStats{Name: name}
		for at, to := range map[int]**uint64{0: &i.RxBytes, 2: &i.RxErrors, 8: &i.TxBytes, 10: &i.TxErrors} {
			n, err := strconv.ParseUint(f[at], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read the machine's counters: interface %s: %w", name, err)
			}
			*to = &n
		}
		out.Interfaces = append(out.Interfaces, i)
		if name == routed {
			out.InterfaceStats = i
		}
	}
	return out, nil
}

// podLink says whether an interface is the machine's end of a link to a network
// namespace: a veth whose peer is elsewhere.
func podLink(name string) bool {
	base := filepath.Join("/sys/class/net", name)
	if _, err := os.Stat(filepath.Join(base, "device")); err == nil {
		return false
	}
	index, err := os.ReadFile(filepath.Join(base, "ifindex"))
	if err != nil {
		return false
	}
	peer, err := os.ReadFile(filepath.Join(base, "iflink"))
	return err == nil && !bytes.Equal(index, peer)
}

// node fills in what the machine as a whole uses. The caller holds the turn.
func (p *Provider) node(ctx context.Context, n *statsapi.NodeStats, full bool) error {
	now := p.cfg.Clock.Now()
	cpu, err := p.host.cpu()
	if err != nil {
		return err
	}
	n.StartTime = stamp(p.host.boot)
	n.CPU = &statsapi.CPUStats{
		Time: stamp(now), UsageCoreNanoSeconds: &cpu, UsageNanoCores: p.nanoCores("node", now, cpu), PSI: p.host.pressure("cpu"),
	}
	m, err := ReadMemory(filepath.Join(p.host.proc, "meminfo"))
	if err != nil {
		return err
	}
	faults, major := p.host.faults()
	n.Memory = &statsapi.MemoryStats{
		Time: stamp(now), AvailableBytes: &m.Available, UsageBytes: &m.Usage, WorkingSetBytes: &m.WorkingSet, RSSBytes: &m.Anonymous,
		PageFaults: faults, MajorPageFaults: major, PSI: p.host.pressure("memory"),
	}
	n.Swap = &statsapi.SwapStats{Time: stamp(now), SwapAvailableBytes: &m.SwapFree, SwapUsageBytes: ptr(m.SwapTotal - min(m.SwapFree, m.SwapTotal))}
	if io := p.host.pressure("io"); io != nil {
		n.IO = &statsapi.IOStats{Time: stamp(now), PSI: io}
	}
	self, err := p.host.self(now)
	if err != nil {
		return err
	}
	self.CPU.UsageNanoCores = p.nanoCores("kubelet", now, *self.CPU.UsageCoreNanoSeconds)
	n.SystemContainers = []statsapi.ContainerStats{*self}
	if !full {
		return nil
	}
	return p.nodeResources(ctx, n, now)
}

// nodeResources fills in what is not CPU and memory.
func (p *Provider) nodeResources(ctx context.Context, n *statsapi.NodeStats, now time.Time) error {
	procs, err := ReadProcesses(p.host.proc)
	if err != nil {
		return err
	}
	n.Rlimit = &statsapi.RlimitStats{Time: stamp(now), MaxPID: ptr(int64(procs.Max)), NumOfRunningProcesses: ptr(int64(procs.Running))}
	if n.Network, err = p.host.network(now); err != nil {
		return err
	}
	if n.Fs, err = FileSystem(p.cfg.RootDir, now); err != nil {
		return err
	}
	images, err := p.imageFs(ctx)
	if err != nil {
		return err
	}
	room, err := FileSystem(images.path, now)
	if err != nil {
		return err
	}
	room = used(room, Disk{Bytes: images.used, Inodes: images.inodes}, images.at)
	n.Runtime = &statsapi.RuntimeStats{ImageFs: room, ContainerFs: room}
	return nil
}

// self is this process: the kubelet and what runs in one process with it.
func (h *host) self(now time.Time) (*statsapi.ContainerStats, error) {
	text, err := h.read("self/stat")
	if err != nil {
		return nil, err
	}
	// The second field is the command's name, which may hold anything.
	_, rest, _ := strings.Cut(text[strings.LastIndexByte(text, ')')+1:], " ")
	f := strings.Fields(rest)
	number := func(i int) uint64 {
		if i >= len(f) {
			return 0
		}
		n, parseErr := strconv.ParseUint(f[i], 10, 64)
		err = errors.Join(err, parseErr)
		return n
	}
	const tick = uint64(time.Second) / ticksPerSecond
	minor, major, user, system, started, rss := number(7), number(9), number(11), number(12), number(19), number(21)
	if err != nil {
		return nil, fmt.Errorf("read this process' counters: %w", err)
	}
	rss *= uint64(os.Getpagesize())
	return &statsapi.ContainerStats{
		Name: statsapi.SystemContainerKubelet, StartTime: stamp(h.boot.Add(time.Duration(started * tick))),
		CPU:    &statsapi.CPUStats{Time: stamp(now), UsageCoreNanoSeconds: ptr((user + system) * tick)},
		Memory: &statsapi.MemoryStats{Time: stamp(now), UsageBytes: &rss, WorkingSetBytes: &rss, RSSBytes: &rss, PageFaults: ptr(minor + major), MajorPageFaults: &major},
	}, nil
}

// missing says whether an error is that of something that is gone.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
