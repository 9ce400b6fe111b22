package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/linger"
	"github.com/peapod/peapod/runtime/image"
)

func (r runtimeServer) ContainerStats(ctx context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	stats, err := r.s.ContainerStats(ctx, q.ContainerId)
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, err
}

func (r runtimeServer) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	stats, err := r.s.ListContainerStats(ctx, q.Filter)
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, err
}

func (r runtimeServer) PodSandboxStats(ctx context.Context, q *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	stats, err := r.s.PodSandboxStats(ctx, q.PodSandboxId)
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, err
}

func (r runtimeServer) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	stats, err := r.s.ListPodSandboxStats(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: stats}, err
}

func (r runtimeServer) ListMetricDescriptors(ctx context.Context, _ *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	list, err := r.s.ListMetricDescriptors(ctx)
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: list}, err
}

func (r runtimeServer) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	list, err := r.s.ListPodSandboxMetrics(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: list}, err
}

// The calls that stream lists send them in one piece: what a node holds fits into a message.

func (r runtimeServer) StreamPodSandboxes(q *runtimeapi.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	list, err := r.s.ListPodSandbox(to.Context(), q.Filter)
	if err != nil {
		return err
	}
	return to.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: list})
}

func (r runtimeServer) StreamContainers(q *runtimeapi.StreamContainersRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	list, err := r.s.ListContainers(to.Context(), q.Filter)
	if err != nil {
		return err
	}
	return to.Send(&runtimeapi.StreamContainersResponse{Containers: list})
}

func (r runtimeServer) StreamContainerStats(q *runtimeapi.StreamContainerStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := r.s.ListContainerStats(to.Context(), q.Filter)
	if err != nil {
		return err
	}
	return to.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: list})
}

func (r runtimeServer) StreamPodSandboxStats(q *runtimeapi.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := r.s.ListPodSandboxStats(to.Context(), q.Filter)
	if err != nil {
		return err
	}
	return to.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: list})
}

func (r runtimeServer) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	list, err := r.s.ListPodSandboxMetrics(to.Context())
	if err != nil {
		return err
	}
	return to.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: list})
}

func (r runtimeServer) GetContainerEvents(_ *runtimeapi.GetEventsRequest, to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(to.Context())
	defer cancel()
	events := make(chan *runtimeapi.ContainerEventResponse)
	ended := make(chan error, 1)
	go func() {
		ended <- r.s.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) {})
	}()
	for {
		select {
		case e := <-events:
			if err := to.Send(e); err != nil {
				cancel()
				<-ended
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

// Serve answers CRI calls, of the runtime and of images, on the unix socket at path until ctx ends. The socket is for root
// alone.
//
// Clients of the socket need an address for the streams of exec, attach and port-forward. It is opened when the first of
// them asks, on loopback, as other runtimes have theirs: a stream's address is random, known to who asked alone, good once
// and for a minute.
func Serve(ctx context.Context, path string, service *Service, images *image.Store, more ...func(grpc.ServiceRegistrar)) error {
	streams := &streamServer{handler: service.StreamHandler()}
	defer streams.close()
	more = append(more, func(server grpc.ServiceRegistrar) { Register(server, service, streams.base) })
	return image.Serve(ctx, path, images, more...)
}

// streamServer is the listener for streams, which exists once somebody has asked for it.
type streamServer struct {
	handler http.Handler

	mu      sync.Mutex
	server  *http.Server
	address string
	serving sync.WaitGroup
}

// base opens the listener, if need be, and returns its address.
func (s *streamServer) base() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return s.address, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		l, err = net.Listen("tcp", "[::1]:0") // the machine has IPv6 alone
	}
	if err != nil {
		return "", fmt.Errorf("listen for streams: %w", err)
	}
	s.server = &http.Server{Handler: s.handler, ReadHeaderTimeout: 30 * time.Second}
	s.address = "http://" + l.Addr().String()
	s.serving.Go(func() {
		if err := s.server.Serve(linger.Listen(l)); !errors.Is(err, http.ErrServerClosed) {
			// The next caller opens another one.
			s.mu.Lock()
			s.server = nil
			s.mu.Unlock()
		}
	})
	return s.address, nil
}

func (s *streamServer) close() {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	if server != nil {
		_ = server.Close() // streams that are open go with it
	}
	s.serving.Wait()
}
