package node

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/kubelet/features"
)

// maxImages and maxNames bound the list of images in the status.
const (
	maxImages = 50
	maxNames  = 5
)

// fill sets all that this node knows of itself; it returns the reasons of
// events for conditions that changed.
func (n *Node) fill(ctx context.Context, s *v1.NodeStatus) ([]string, error) {
	if err := n.resources(s); err != nil {
		return nil, err
	}
	s.Addresses = nil
	for _, ip := range n.cfg.IPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: n.cfg.Name})
	s.DaemonEndpoints.KubeletEndpoint.Port = n.cfg.Port
	s.DeclaredFeatures = features.Declared()
	if n.cfg.Volumes != nil {
		if used, ok := n.cfg.Volumes.InUse(); ok {
			slices.Sort(used)
			s.VolumesInUse = used
		}
	}
	var problems []string
	if err := n.info(ctx, s); err != nil {
		problems = append(problems, err.Error())
	}
	if err := n.images(ctx, s); err != nil {
		problems = append(problems, err.Error())
	}
	problems = append(problems, n.runtimeProblems(ctx, s)...)
	return n.conditions(s, problems), nil
}

// resources sets what the machine has, and what of it Pods may have.
func (n *Node) resources(s *v1.NodeStatus) error {
	capacity, err := n.m.capacity(n.cfg.RootDir, n.cfg.MaxPods)
	if err != nil {
		return err
	}
	if s.Capacity == nil {
		s.Capacity, s.Allocatable = v1.ResourceList{}, v1.ResourceList{}
	}
	// Extended resources that somebody advertised stay.
	for name, q := range capacity {
		s.Capacity[name] = q
	}
	for name, q := range allocatable(s.Capacity, n.kept(s.Capacity)...) {
		s.Allocatable[name] = q
	}
	if n.cfg.Devices != nil {
		all, free := n.cfg.Devices.Capacity()
		maps.Copy(s.Capacity, all)
		maps.Copy(s.Allocatable, free)
	}
	return nil
}

// kept are the lists of what Pods may not have.
func (n *Node) kept(capacity v1.ResourceList) []v1.ResourceList {
	if n.cfg.Pressure == nil {
		return []v1.ResourceList{n.cfg.Reserved}
	}
	return []v1.ResourceList{n.cfg.Reserved, n.cfg.Pressure.Kept(capacity)}
}

func (n *Node) info(ctx context.Context, s *v1.NodeStatus) error {
	i := &s.NodeInfo
	i.MachineID, i.SystemUUID, i.BootID = n.m.machineID, n.m.uuid, n.m.bootID
	i.KernelVersion, i.OSImage = n.m.kernel, n.m.osImage
	i.KubeletVersion, i.OperatingSystem, i.Architecture = n.cfg.Version, runtime.GOOS, runtime.GOARCH
	if n.m.swap > 0 {
		swap := n.m.swap
		i.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	v, err := n.cfg.Runtime.Version(ctx, "")
	if err != nil {
		i.ContainerRuntimeVersion = "://Unknown"
		return fmt.Errorf("container runtime is down: %w", err)
	}
	i.ContainerRuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
	return nil
}

// images lists the greatest images first.
func (n *Node) images(ctx context.Context, s *v1.NodeStatus) error {
	list, err := n.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	list = slices.Clone(list)
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].Size != list[j].Size {
			return list[i].Size > list[j].Size
		}
		return list[i].Id < list[j].Id
	})
	s.Images = nil
	for _, img := range list {
		names := append(slices.Clone(img.RepoDigests), img.RepoTags...)
		if len(names) > maxNames {
			names = names[:maxNames]
		}
		if len(s.Images) < maxImages {
			s.Images = append(s.Images, v1.ContainerImage{Names: names, SizeBytes: int64(img.Size)})
		}
	}
	return nil
}

// runtimeProblems are why the runtime cannot run Pods; it also notes what the
// runtime can do.
func (n *Node) runtimeProblems(ctx context.Context, s *v1.NodeStatus) []string {
	resp, err := n.cfg.Runtime.Status(ctx, false)
	if err != nil {
		return []string{fmt.Sprintf("container runtime status check failed: %v", err)}
	}
	var problems []string
	for _, want := range []struct{ kind, text string }{
		{"RuntimeReady", "container runtime not ready"}, {"NetworkReady", "container runtime network not ready"},
	} {
		found := false
		for _, c := range resp.GetStatus().GetConditions() {
			if c.Type != want.kind {
				continue
			}
			found = true
			if !c.Status {
				problems = append(problems, fmt.Sprintf("%s: %s=%v reason:%s message:%s", want.text, c.Type, c.Status, c.Reason, c.Message))
			}
		}
		if !found {
			problems = append(problems, fmt.Sprintf("%s: condition %s is missing", want.text, want.kind))
		}
	}
	s.RuntimeHandlers = nil
	for _, h := range resp.RuntimeHandlers {
		handler := v1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			handler.Features = &v1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces,
			}
		}
		s.RuntimeHandlers = append(s.RuntimeHandlers, handler)
	}
	if f := resp.Features; f != nil {
		s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
	return problems
}

func (n *Node) conditions(s *v1.NodeStatus, problems []string) (events []string) {
	memory, disk, pids := false, false, false
	if n.cfg.Pressure != nil {
		memory, disk, pids = n.cfg.Pressure.Pressure()
	}
	pressure := func(t v1.NodeConditionType, on bool, yes, yesText, no, noText, yesEvent, noEvent string) {
		c := v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: no, Message: noText}
		event := noEvent
		if on {
			c.Status, c.Reason, c.Message, event = v1.ConditionTrue, yes, yesText, yesEvent
		}
		if set(s, c) {
			events = append(events, event)
		}
	}
	pressure(v1.NodeMemoryPressure, memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasInsufficientMemory", "NodeHasSufficientMemory")
	pressure(v1.NodeDiskPressure, disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure")
	pressure(v1.NodePIDPressure, pids, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasInsufficientPID", "NodeHasSufficientPID")
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	event := "NodeReady"
	if len(problems) > 0 {
		ready.Status, ready.Reason, event = v1.ConditionFalse, "KubeletNotReady", "NodeNotReady"
		ready.Message = strings.Join(problems, ", ")
		if len(problems) > 1 {
			ready.Message = "[" + ready.Message + "]"
		}
	}
	if set(s, ready) {
		events = append(events, event)
	}
	return events
}

// set puts a condition in; it reports whether its status changed.
func set(s *v1.NodeStatus, c v1.NodeCondition) bool {
	now := metav1.Now().Rfc3339Copy()
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	if old := condition(s, c.Type); old != nil {
		changed := old.Status != c.Status
		if !changed {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return changed
	}
	s.Conditions = append(s.Conditions, c)
	return true
}

func condition(s *v1.NodeStatus, t v1.NodeConditionType) *v1.NodeCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}
