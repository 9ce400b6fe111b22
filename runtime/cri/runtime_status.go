package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Version names the runtime.
func (s *Service) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: RuntimeName, RuntimeVersion: s.cfg.Version, RuntimeApiVersion: "v1",
	}, nil
}

// Status says whether the runtime works: it does if the supervisor answers.
func (s *Service) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	ready := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	hello, err := s.cfg.Supervisor.Hello(ctx)
	if err != nil {
		ready = &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Reason: "SupervisorNotReady", Message: err.Error()}
	}
	usersErr := s.haveUsers()
	features := &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: usersErr == nil}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			ready, {Type: runtimeapi.NetworkReady, Status: true},
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "", Features: features}, {Name: RuntimeName, Features: features}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if verbose && hello != nil {
		info, err := json.Marshal(hello)
		if err != nil {
			return nil, fmt.Errorf("encode supervisor info: %w", err)
		}
		resp.Info = map[string]string{"supervisor": string(info)}
		if usersErr != nil {
			resp.Info["userNamespaces"] = usersErr.Error()
		}
	}
	return resp, nil
}

// RuntimeConfig says how cgroups are named: by paths, not by systemd slices.
func (s *Service) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS},
	}, nil
}

// UpdateRuntimeConfig takes nothing in: Pod addresses are the Network's business.
func (s *Service) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }

// CheckpointContainer is not supported.
func (s *Service) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return status.Error(codes.Unimplemented, "method CheckpointContainer not implemented")
}

// CheckpointPod is not supported.
func (s *Service) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) error {
	return status.Error(codes.Unimplemented, "method CheckpointPod not implemented")
}

// RestorePod is not supported.
func (s *Service) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "method RestorePod not implemented")
}

// UpdatePodSandboxResources has nothing to do: the Pod's cgroup is the kubelet's, and already changed.
func (s *Service) UpdatePodSandboxResources(_ context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if _, err := s.sandbox(r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
