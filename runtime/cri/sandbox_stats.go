package cri

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/ownthread"
)

// PodSandboxStats returns the usage of one Pod: the sum of its running containers, and its network's counters.
func (s *Service) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	sb, err := s.sandbox(id)
	if err != nil {
		return nil, err
	}
	containers, err := s.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{PodSandboxId: id})
	if err != nil {
		return nil, err
	}
	return s.sandboxStats(sb, containers), nil
}

// ListPodSandboxStats returns the usage of the running Pods that the filter matches.
func (s *Service) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	all, err := s.ListContainerStats(ctx, nil)
	if err != nil {
		return nil, err
	}
	bySandbox := map[string][]*runtimeapi.ContainerStats{}
	for _, st := range all {
		if c, err := s.container(st.Attributes.Id); err == nil {
			bySandbox[c.sandboxID] = append(bySandbox[c.sandboxID], st)
		}
	}
	var list []*runtimeapi.PodSandboxStats
	for _, sb := range s.allSandboxes() {
		e := sb.get()
		if e.Phase == phaseReady && (filter.GetId() == "" || filter.Id == sb.id) &&
			matches(e.Config.Message.Labels, filter.GetLabelSelector()) {
			list = append(list, s.sandboxStats(sb, bySandbox[sb.id]))
		}
	}
	return list, nil
}

func (s *Service) sandboxStats(sb *sandbox, containers []*runtimeapi.ContainerStats) *runtimeapi.PodSandboxStats {
	e := sb.get()
	now := time.Now().UnixNano()
	linux := &runtimeapi.LinuxPodSandboxStats{Containers: containers}
	var cpu, working, usage, rss, faults, major uint64
	for _, c := range containers {
		cpu += c.Cpu.UsageCoreNanoSeconds.GetValue()
		working += c.Memory.WorkingSetBytes.GetValue()
		usage += c.Memory.UsageBytes.GetValue()
		rss += c.Memory.RssBytes.GetValue()
		faults += c.Memory.PageFaults.GetValue()
		major += c.Memory.MajorPageFaults.GetValue()
	}
	linux.Cpu = &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: value(cpu)}
	linux.Memory = &runtimeapi.MemoryUsage{
		Timestamp: now, WorkingSetBytes: value(working), UsageBytes: value(usage), RssBytes: value(rss),
		PageFaults: value(faults), MajorPageFaults: value(major),
	}
	if !e.hostNetwork() && e.Phase == phaseReady {
		interfaces, err := networkUsage(s.nsPath(sb.id, "net"))
		if err != nil {
			s.log.V(2).Info("No network usage of sandbox", "sandbox", sb.id, "err", err)
		}
		linux.Network = &runtimeapi.NetworkUsage{Timestamp: now, Interfaces: interfaces}
		if len(interfaces) > 0 {
			linux.Network.DefaultInterface, linux.Network.Interfaces = interfaces[0], interfaces[1:]
		}
	}
	config := e.Config.Message
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: sb.id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations,
		},
		Linux: linux,
	}
}

// networkUsage reads the interfaces' counters in the network namespace at path, without loopback.
func networkUsage(path string) ([]*runtimeapi.NetworkInterfaceUsage, error) {
	var body []byte
	err := ownthread.Run(func() (err error) {
		if err := enterNetwork(path); err != nil {
			return err
		}
		body, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	return parseNetDev(string(body)), nil
}

func parseNetDev(text string) []*runtimeapi.NetworkInterfaceUsage {
	var list []*runtimeapi.NetworkInterfaceUsage
	for _, line := range strings.Split(text, "\n") {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		name = strings.TrimSpace(name)
		if !ok || len(f) < 16 || name == "lo" {
			continue
		}
		number := func(i int) *runtimeapi.UInt64Value {
			n, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				return nil
			}
			return value(n)
		}
		list = append(list, &runtimeapi.NetworkInterfaceUsage{
			Name: name, RxBytes: number(0), RxErrors: number(2), TxBytes: number(8), TxErrors: number(10),
		})
	}
	return list
}
