package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/peapod/peapod/kubelet/device/devicetest"
)

const tapes = "example.com/tape"

// tapePlugin is a device plugin, as vendors make them: each of its devices is a device node, a directory and a variable.
type tapePlugin struct {
	devicetest.Plugin
	t         *testing.T
	kubelet   string // directory of plugins
	directory string // of the machine, for containers
}

func (p *tapePlugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *tapePlugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		a := &api.ContainerAllocateResponse{Envs: map[string]string{"TAPES": strings.Join(c.DevicesIds, ",")},
			Mounts: []*api.Mount{{ContainerPath: "/opt/tapes", HostPath: p.directory, ReadOnly: true}}}
		for _, id := range c.DevicesIds {
			a.Devices = append(a.Devices, &api.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/zero", Permissions: "r"})
		}
		out.ContainerResponses = append(out.ContainerResponses, a)
	}
	return out, nil
}

// register serves the plugin and registers it, as it does when it sees the kubelet's socket.
func (p *tapePlugin) register() {
	p.t.Helper()
	socket := filepath.Join(p.kubelet, "kubelet.sock")
	devicetest.AwaitKubelet(p.t, socket)
	p.Serve(p.t, p, filepath.Join(p.kubelet, "tapes.sock"))
	request := &api.RegisterRequest{Version: api.Version, Endpoint: "tapes.sock", ResourceName: tapes}
	if err := devicetest.Register(within(p.t, patience), socket, request); err != nil {
		p.t.Fatal(err)
	}
}

// list says which of two devices are healthy.
func (p *tapePlugin) list(first, second string) {
	p.Lists <- []*api.Device{{ID: "tape-0", Health: first}, {ID: "tape-1", Health: second}}
}

// recording is a Pod with a number of tapes.
const recording = `apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: busybox
    command: [sh, -c, 'trap exit TERM; while :; do sleep 1; done']
    resources: {limits: {example.com/tape: COUNT}}
`

func recorder(name, count string) string {
	return strings.NewReplacer("NAME", name, "COUNT", count).Replace(recording)
}

// tapesOf is what monitors are told that a Pod has.
func tapesOf(o *own, namespace, pod string) (ids []string) {
	o.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(o.Instance.DataDir, "kubelet", "pod-resources", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		o.t.Fatal(err)
	}
	defer conn.Close()
	got, err := podresourcesapi.NewPodResourcesListerClient(conn).Get(within(o.t, patience), &podresourcesapi.GetPodResourcesRequest{PodNamespace: namespace, PodName: pod}, grpc.WaitForReady(true))
	if err != nil {
		o.t.Fatal(err)
	}
	for _, d := range got.PodResources.Containers[0].Devices {
		ids = append(ids, d.ResourceName+"="+strings.Join(d.DeviceIds, ","))
	}
	return ids
}

// A device plugin's devices are the node's to give: a Pod that asks for one has its node, directory and variable, through restarts of its
// container and of the server; nobody else gets it; and how it does is in the Pod's status.
func TestDevicePlugin(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	p := &tapePlugin{t: t, kubelet: filepath.Join(o.Instance.DataDir, "kubelet", "device-plugins"), directory: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.directory, "label"), []byte("side A"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.awaitKubelet()
	p.register()
	p.list(api.Healthy, api.Healthy)
	node := s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	allocatable := func(n string) {
		t.Helper()
		s.kubectl("wait", "node/"+node, "--timeout=120s", `--for=jsonpath={.status.allocatable.example\.com/tape}=`+n)
	}
	allocatable("2")
	contains(t, "description", strings.Join(strings.Fields(s.kubectl("describe", "node", node)), " "), tapes+": 2")

	s.apply(recorder("user", "1"))
	s.ready("user")
	sees := func() string {
		t.Helper()
		return s.kubectl("exec", "user", "--", "sh", "-c", `echo $TAPES $(cat /opt/tapes/label) $(cd /dev && for d in tape-*; do [ -c $d ] && echo $d $(head -c 3 $d | wc -c); done)`)
	}
	device, _, _ := strings.Cut(sees(), " ")
	want := device + " side A " + device + " 3"
	equal(t, "the container sees", strings.TrimSpace(sees()), want)
	told := []string{tapes + "=" + device}
	if got := tapesOf(o, s.name, "user"); !slices.Equal(got, told) {
		t.Errorf("monitors are told %v, want %v", got, told)
	}

	// Who comes past the scheduler is refused.
	s.apply(strings.ReplaceAll(recorder("greedy", "2"), "spec:\n", "spec:\n  nodeName: "+node+"\n"))
	refused := s.phase("greedy", corev1.PodFailed)
	equal(t, "reason", refused.Status.Reason, "UnexpectedAdmissionError")
	contains(t, "message", refused.Status.Message, "Allocate failed due to requested number of devices unavailable for "+tapes+". Requested: 2, Available: 1, which is unexpected")
	s.kubectl("delete", "pod", "greedy")

	// The server goes, and the container restarts before the plugin is back.
	o.killServer()
	p.Stop()
	o.restart()
	o.awaitKubelet()
	allocatable("0")
	s.kubectl("exec", "user", "--", "kill", "1")
	s.awaitPod("user", "has a new container", func(p *corev1.Pod) bool {
		c := p.Status.ContainerStatuses
		return len(c) == 1 && c[0].RestartCount > 0 && c[0].State.Running != nil
	})
	equal(t, "after a restart the container sees", strings.TrimSpace(sees()), want)
	p.register()
	p.list(api.Healthy, api.Healthy)
	allocatable("2")
	s.apply(recorder("other", "1"))
	s.ready("other")
	if got := tapesOf(o, s.name, "other"); len(got) != 1 || slices.Equal(got, told) {
		t.Errorf("another pod has %v, beside %v", got, told)
	}

	p.list(api.Unhealthy, api.Unhealthy)
	allocatable("0")
	s.kubectl("wait", "pod/user", "--timeout=120s", "--for=jsonpath={.status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health}=Unhealthy")
	p.list(api.Healthy, api.Healthy)
	s.apply(recorder("both", "2"))
	s.event("both", "FailedScheduling", "0/1 nodes are available")
	s.kubectl("delete", "pod", "user", "other")
	s.ready("both")
	s.kubectl("delete", "pod", "both")
}
