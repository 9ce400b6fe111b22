package cri

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

// remoteNode is a node as the client library of Kubernetes' kubelet sees it, through gRPC.
func remoteNode(t *testing.T) (*node, internalapi.RuntimeService) {
	t.Helper()
	n := newNode(t)
	l, err := net.Listen("unix", filepath.Join(n.dir, "cri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	streams := &streamServer{handler: n.service.StreamHandler()}
	server := grpc.NewServer()
	Register(server, n.service, streams.base)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client, err := remote.NewRemoteRuntimeService(n.ctx, "unix://"+l.Addr().String(), 10*time.Second, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(context.Background()); err != nil {
			t.Error(err)
		}
		server.Stop()
		streams.close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return n, client
}

func TestOverGRPC(t *testing.T) {
	n, client := remoteNode(t)
	if v, err := client.Version(n.ctx, "v1"); err != nil || v.RuntimeName != RuntimeName {
		t.Fatalf("version %v, %v", v, err)
	}
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	ctx, cancel := context.WithCancel(n.ctx)
	followed := make(chan error, 1)
	connected := make(chan struct{})
	go func() {
		followed <- client.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(connected) })
	}()
	<-connected
	config := n.sandboxConfig("remote")
	sandbox, err := client.RunPodSandbox(n.ctx, config, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := client.CreateContainer(n.ctx, sandbox, shell("main", "exec sleep 1000"), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.StartContainer(n.ctx, id); err != nil {
		t.Fatal(err)
	}
	stdout, _, err := client.ExecSync(n.ctx, id, []string{"sh", "-c", "echo out; exit 7"}, 10*time.Second)
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 7 || string(stdout) != "out\n" {
		t.Errorf("ExecSync: %q, %v", stdout, err)
	}
	if err := client.StopContainer(n.ctx, id, 0); err != nil {
		t.Fatal(err)
	}
	status, err := client.ContainerStatus(n.ctx, id, false)
	if err != nil || status.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || status.Status.ExitCode != 137 {
		t.Errorf("status %v, %v", status, err)
	}
	for stopped := false; !stopped; {
		select {
		case e := <-events:
			stopped = e.ContainerId == id && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
		case err := <-followed:
			t.Fatalf("events ended: %v", err)
		case <-time.After(30 * time.Second):
			t.Fatal("no event of the container's end")
		}
	}
	cancel()
	<-followed
	if err := errors.Join(client.StopPodSandbox(n.ctx, sandbox), client.RemovePodSandbox(n.ctx, sandbox)); err != nil {
		t.Error(err)
	}
}

// A stream's address is good once.
func TestStreamOverGRPC(t *testing.T) {
	n, client := remoteNode(t)
	id := n.start(n.run(n.sandboxConfig("stream")), shell("main", "exec sleep 1000"))
	response, err := client.Exec(n.ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"echo", "hi"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(response.Url)
	if err != nil || u.Hostname() != "127.0.0.1" {
		t.Fatalf("address %q, %v", response.Url, err)
	}
	stream := func() (string, error) {
		executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = executor.StreamWithContext(n.ctx, remotecommand.StreamOptions{Stdout: &out})
		return out.String(), err
	}
	if out, err := stream(); err != nil || out != "hi\n" {
		t.Errorf("first use: %q, %v", out, err)
	}
	if out, err := stream(); err == nil {
		t.Errorf("the address was good twice: %q", out)
	}
}
