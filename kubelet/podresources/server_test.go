package podresources

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

func made(name string, phase v1.PodPhase) *v1.Pod {
	always := v1.ContainerRestartPolicyAlways
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Status: v1.PodStatus{Phase: phase}, Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "before"}, {Name: "beside", RestartPolicy: &always}}, Containers: []v1.Container{{Name: "main"}},
	}}
}

// serve runs a server, and returns a client and what ends the server.
func serve(t *testing.T, cfg Config) (api.PodResourcesListerClient, func()) {
	t.Helper()
	cfg.Socket = filepath.Join(t.TempDir(), "pod-resources", "kubelet.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := New(cfg).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return api.NewPodResourcesListerClient(conn), stop
}

func TestListAndGet(t *testing.T) {
	pods := []*v1.Pod{made("b", v1.PodRunning), made("over", v1.PodSucceeded), made("a", v1.PodPending)}
	claimed := &api.DynamicResource{ClaimName: "claim", ClaimNamespace: "ns", ClaimResources: []*api.ClaimResource{{DriverName: "d", PoolName: "n1", DeviceName: "x"}}}
	plugged := []*api.ContainerDevices{{ResourceName: "example.com/gpu", DeviceIds: []string{"gpu-0"}}}
	client, stop := serve(t, Config{Pods: func() []*v1.Pod { return pods }, Devices: func(p *v1.Pod, c *v1.Container) []*api.ContainerDevices {
		if c.Name != "beside" || p.Name != "b" {
			return nil
		}
		return plugged
	}, Allocatable: func() []*api.ContainerDevices { return plugged }, Claims: func(p *v1.Pod, c *v1.Container) ([]*api.DynamicResource, error) {
		switch {
		case p.Name == "a":
			return nil, errors.New("not yet")
		case c.Name == "main":
			return []*api.DynamicResource{claimed}, nil
		}
		return nil, nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list, err := client.List(ctx, &api.ListPodResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list.PodResources {
		for _, c := range p.Containers {
			text := p.Namespace + "/" + p.Name + "/" + c.Name
			for _, d := range c.Devices {
				text += " " + d.ResourceName + "=" + d.DeviceIds[0]
			}
			for _, d := range c.DynamicResources {
				text += " " + d.ClaimName + "=" + d.ClaimResources[0].DeviceName
			}
			got = append(got, text)
		}
	}
	if text, want := strings.Join(got, ", "), "ns/a/beside, ns/a/main, ns/b/beside example.com/gpu=gpu-0, ns/b/main claim=x"; text != want {
		t.Errorf("list %s, want %s", text, want)
	}
	one, err := client.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "over"})
	if err != nil || one.PodResources.Name != "over" || len(one.PodResources.Containers) != 2 {
		t.Errorf("get: %v, %v", one, err)
	}
	if _, err := client.Get(ctx, &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "c"}); err == nil || !strings.Contains(err.Error(), "pod c in namespace ns not found") {
		t.Errorf("get what is not there: %v", err)
	}
	if all, err := client.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{}); err != nil || len(all.Devices) != 1 || all.Devices[0].DeviceIds[0] != "gpu-0" || len(all.CpuIds)+len(all.Memory) != 0 {
		t.Errorf("allocatable: %v, %v", all, err)
	}
	stop()
}

// Who asks too often is turned away, rather than keep the node busy.
func TestLimit(t *testing.T) {
	client, _ := serve(t, Config{Pods: func() []*v1.Pod { return nil }})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := client.List(ctx, &api.ListPodResourcesRequest{})
		if status.Code(err) == codes.ResourceExhausted && status.Convert(err).Message() == "rejected by rate limit" {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

// A server that nobody asks ends, and so does one that cannot listen.
func TestNobodyAsks(t *testing.T) {
	_, stop := serve(t, Config{})
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(Config{Socket: "/proc/nowhere/kubelet.sock"}).Run(ctx); err != nil {
		t.Error(err)
	}
}
