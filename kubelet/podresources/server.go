// Package podresources tells programs of the node which Pod has which of its devices: the kubelet's API podresources.v1, at a socket for
// root alone. Monitors of devices ask it.
//
// What Pods have of their own here is the devices of their claims (kubelet/dra) and those of device plugins (kubelet/device). No CPUs or
// memory are set aside for a container, so that of these nothing is told, as by a kubelet whose managers have policy none.
package podresources

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/peapod/peapod/internal/rootsocket"
	"github.com/peapod/peapod/kubelet/metrics"
)

// So many requests a second are answered, and so many at once.
const (
	rateLimit = 100
	burst     = 10
)

// Config is what a Server is made from.
type Config struct {
	// Socket is the path of the socket; its folder is made.
	Socket string
	// Pods are those of the node.
	Pods func() []*v1.Pod
	// Claims are what a container has of its Pod's claims.
	Claims func(*v1.Pod, *v1.Container) ([]*api.DynamicResource, error)
	// Devices are what a container has of device plugins, and Allocatable what they have for Pods.
	Devices     func(*v1.Pod, *v1.Container) []*api.ContainerDevices
	Allocatable func() []*api.ContainerDevices
	// Metrics count requests; optional.
	Metrics *metrics.Set
}

// Server is the API.
type Server struct {
	api.UnsafePodResourcesListerServer
	cfg Config
}

// New returns a Server that does not listen yet.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Run answers until ctx ends. Before somebody connects there is a listener, and nothing else. Nobody may ever ask, so a node where
// that does not work goes on without it.
func (s *Server) Run(ctx context.Context) error {
	if err := s.serve(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Resources of pods cannot be asked for on this node", "socket", s.cfg.Socket)
	}
	<-ctx.Done()
	return nil
}

func (s *Server) serve(ctx context.Context) error {
	return rootsocket.Serve(ctx, s.cfg.Socket, func() rootsocket.Server {
		server := grpc.NewServer(grpc.UnaryInterceptor(limited(flowcontrol.NewTokenBucketRateLimiter(rateLimit, burst))))
		api.RegisterPodResourcesListerServer(server, s)
		return server
	})
}

// limited turns away requests beyond a rate.
func limited(limit flowcontrol.PassiveRateLimiter) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !limit.TryAccept() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return handle(ctx, req)
	}
}

// List tells of all Pods that are not over.
func (s *Server) List(ctx context.Context, _ *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	s.cfg.Metrics.PodResourcesAsked(metrics.List, nil)
	pods := slices.DeleteFunc(slices.Clone(s.cfg.Pods()), func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed })
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	out := &api.ListPodResourcesResponse{}
	for _, p := range pods {
		out.PodResources = append(out.PodResources, s.describe(ctx, p))
	}
	return out, nil
}

// Get tells of one Pod.
func (s *Server) Get(ctx context.Context, req *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	pods := s.cfg.Pods()
	i := slices.IndexFunc(pods, func(p *v1.Pod) bool { return p.Namespace == req.PodNamespace && p.Name == req.PodName })
	if i < 0 {
		err := fmt.Errorf("pod %s in namespace %s not found", req.PodName, req.PodNamespace)
		s.cfg.Metrics.PodResourcesAsked(metrics.Get, err)
		return nil, err
	}
	s.cfg.Metrics.PodResourcesAsked(metrics.Get, nil)
	return &api.GetPodResourcesResponse{PodResources: s.describe(ctx, pods[i])}, nil
}

// GetAllocatableResources tells which healthy devices device plugins have, and which CPUs and memory may be set aside: none.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	s.cfg.Metrics.PodResourcesAsked(metrics.GetAllocatable, nil)
	return &api.AllocatableResourcesResponse{Devices: s.cfg.Allocatable()}, nil
}

// describe tells what the containers of a Pod have: sidecars, then regular ones.
func (s *Server) describe(ctx context.Context, p *v1.Pod) *api.PodResources {
	out := &api.PodResources{Name: p.Name, Namespace: p.Namespace}
	add := func(c *v1.Container) {
		claims, err := s.cfg.Claims(p, c)
		if err != nil { // it is being prepared, or is no more
			klog.FromContext(ctx).V(4).Info("Claims of a container are not told", "pod", klog.KObj(p), "container", c.Name, "err", err)
		}
		out.Containers = append(out.Containers, &api.ContainerResources{Name: c.Name, Devices: s.cfg.Devices(p, c), DynamicResources: claims})
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return out
}
