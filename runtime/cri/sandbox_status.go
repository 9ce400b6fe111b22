package cri

import (
	"context"
	"encoding/json"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSandboxStatus tells how a sandbox is.
func (s *Service) PodSandboxStatus(_ context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.sandbox(id)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: s.sandboxStatus(sb)}
	if verbose {
		e := sb.get()
		info, err := json.Marshal(map[string]any{
			"phase": e.Phase, "networkNamespace": s.nsPath(id, "net"), "cgroupParent": s.sandboxCgroup(&e), "runtimeHandler": e.Handler,
		})
		if err != nil {
			return nil, fmt.Errorf("encode sandbox info: %w", err)
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

func (s *Service) sandboxStatus(sb *sandbox) *runtimeapi.PodSandboxStatus {
	e := sb.get()
	config := e.Config.Message
	st := &runtimeapi.PodSandboxStatus{
		Id: e.ID, Metadata: config.Metadata, State: e.state(), CreatedAt: e.CreatedAt.UnixNano(),
		Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: e.Handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network: e.namespaces().GetNetwork(), Pid: e.namespaces().GetPid(), Ipc: e.namespaces().GetIpc(),
			TargetId: e.namespaces().GetTargetId(), UsernsOptions: e.namespaces().GetUsernsOptions(),
		}}},
	}
	for i, ip := range e.IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
			continue
		}
		st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return st
}

func (e *sandboxEntry) state() runtimeapi.PodSandboxState {
	if e.Phase == phaseReady {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// ListPodSandbox lists the sandboxes that the filter matches. One that is being made is not there yet.
func (s *Service) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*runtimeapi.PodSandbox
	for _, sb := range s.sandboxes {
		e := sb.get()
		config := e.Config.Message
		if e.Phase == phaseCreating || (filter.GetId() != "" && filter.Id != e.ID) ||
			(filter.GetState() != nil && filter.State.State != e.state()) || !matches(config.Labels, filter.GetLabelSelector()) {
			continue
		}
		list = append(list, &runtimeapi.PodSandbox{
			Id: e.ID, Metadata: config.Metadata, State: e.state(), CreatedAt: e.CreatedAt.UnixNano(),
			Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: e.Handler,
		})
	}
	return list, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
