package cri

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// Register adds the CRI's RuntimeService to a gRPC server, for crictl, critest and kubelets of another process. streams
// returns the base address of StreamHandler for them.
func Register(server grpc.ServiceRegistrar, service *Service, streams func() (string, error)) {
	runtimeapi.RegisterRuntimeServiceServer(server, runtimeServer{s: service, streams: streams})
}

// runtimeServer is the service as gRPC has it.
type runtimeServer struct {
	// Calls that the CRI gains later are answered as unimplemented.
	runtimeapi.UnimplementedRuntimeServiceServer
	s       *Service
	streams func() (string, error)
}

var _ runtimeapi.RuntimeServiceServer = runtimeServer{}

func (r runtimeServer) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return r.s.Version(ctx, q.Version)
}

func (r runtimeServer) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return r.s.Status(ctx, q.Verbose)
}

func (r runtimeServer) RuntimeConfig(ctx context.Context, _ *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return r.s.RuntimeConfig(ctx)
}

func (r runtimeServer) UpdateRuntimeConfig(ctx context.Context, q *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, r.s.UpdateRuntimeConfig(ctx, q.RuntimeConfig)
}

func (r runtimeServer) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id, err := r.s.RunPodSandbox(ctx, q.Config, q.RuntimeHandler)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, err
}

func (r runtimeServer) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return &runtimeapi.StopPodSandboxResponse{}, r.s.StopPodSandbox(ctx, q.PodSandboxId)
}

func (r runtimeServer) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, r.s.RemovePodSandbox(ctx, q.PodSandboxId)
}

func (r runtimeServer) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return r.s.PodSandboxStatus(ctx, q.PodSandboxId, q.Verbose)
}

func (r runtimeServer) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	list, err := r.s.ListPodSandbox(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxResponse{Items: list}, err
}

func (r runtimeServer) UpdatePodSandboxResources(ctx context.Context, q *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return r.s.UpdatePodSandboxResources(ctx, q)
}

func (r runtimeServer) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id, err := r.s.CreateContainer(ctx, q.PodSandboxId, q.Config, q.SandboxConfig)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, err
}

func (r runtimeServer) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, r.s.StartContainer(ctx, q.ContainerId)
}

func (r runtimeServer) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return &runtimeapi.StopContainerResponse{}, r.s.StopContainer(ctx, q.ContainerId, q.Timeout)
}

func (r runtimeServer) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, r.s.RemoveContainer(ctx, q.ContainerId)
}

func (r runtimeServer) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	list, err := r.s.ListContainers(ctx, q.Filter)
	return &runtimeapi.ListContainersResponse{Containers: list}, err
}

func (r runtimeServer) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return r.s.ContainerStatus(ctx, q.ContainerId, q.Verbose)
}

func (r runtimeServer) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, r.s.UpdateContainerResources(ctx, q.ContainerId,
		&runtimeapi.ContainerResources{Linux: q.Linux, Windows: q.Windows})
}

func (r runtimeServer) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, r.s.ReopenContainerLog(ctx, q.ContainerId)
}

// ExecSync answers a command's exit code as a response, not as an error, and running out of time as DeadlineExceeded.
func (r runtimeServer) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	stdout, stderr, err := r.s.ExecSync(ctx, q.ContainerId, q.Cmd, time.Duration(q.Timeout)*time.Second)
	response := &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr}
	var exit utilexec.CodeExitError
	switch {
	case errors.As(err, &exit):
		response.ExitCode = int32(exit.Code)
		return response, nil
	case errors.Is(err, ErrTimedOut):
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	return response, err
}

// whole makes an address of the path that a stream is at.
func (r runtimeServer) whole(path string) (string, error) {
	base, err := r.streams()
	if err != nil {
		return "", err
	}
	return base + path, nil
}

func (r runtimeServer) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	response, err := r.s.Exec(ctx, q)
	if err != nil {
		return nil, err
	}
	url, err := r.whole(response.Url)
	return &runtimeapi.ExecResponse{Url: url}, err
}

func (r runtimeServer) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	response, err := r.s.Attach(ctx, q)
	if err != nil {
		return nil, err
	}
	url, err := r.whole(response.Url)
	return &runtimeapi.AttachResponse{Url: url}, err
}

func (r runtimeServer) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	response, err := r.s.PortForward(ctx, q)
	if err != nil {
		return nil, err
	}
	url, err := r.whole(response.Url)
	return &runtimeapi.PortForwardResponse{Url: url}, err
}

func (r runtimeServer) CheckpointContainer(ctx context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, r.s.CheckpointContainer(ctx, q)
}

func (r runtimeServer) CheckpointPod(ctx context.Context, q *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, r.s.CheckpointPod(ctx, q)
}

func (r runtimeServer) RestorePod(ctx context.Context, q *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return r.s.RestorePod(ctx, q)
}
