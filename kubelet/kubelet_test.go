package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/critest"
	"github.com/peapod/peapod/kubelet/device"
	"github.com/peapod/peapod/kubelet/dra"
)

type noVolumes struct{}

func (noVolumes) Adopt(context.Context, []*v1.Pod) error    { return nil }
func (noVolumes) Changed(*v1.Pod)                           {}
func (noVolumes) Prepare(context.Context, *v1.Pod) error    { return nil }
func (noVolumes) Teardown(context.Context, types.UID) error { return nil }
func (noVolumes) Devices(context.Context, *v1.Pod, *v1.Container) ([]*runtimeapi.Device, error) {
	return nil, nil
}

func (noVolumes) File(*v1.Pod, string, string) ([]byte, error) { return nil, nil }

func (noVolumes) Mounts(context.Context, *v1.Pod, *v1.Container, map[string]string) ([]*runtimeapi.Mount, error) {
	return nil, nil
}

// TestKubelet runs a Pod from the API to the API: bound, running with its
// configuration, deleted, gone; then it stops and leaves nothing behind.
func TestKubelet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for cgroups")
	}
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client, rt, dir := fake.NewClientset(), critest.New(), t.TempDir()
	client.PrependReactor("create", "events", func(ktesting.Action) (bool, runtime.Object, error) { return true, &v1.Event{}, nil })
	root := fmt.Sprintf("/kubelet-test-%d", os.Getpid())
	k, err := New(Config{
		NodeName: "n1", NodeIPs: []string{"192.0.2.1"}, Client: client, Runtime: rt, Images: critest.NewImages("img:1"), Volumes: noVolumes{}, Devices: dra.New(dra.Config{RootDir: dir}), Plugins: device.New(device.Config{RootDir: dir}),
		RootDir: filepath.Join(dir, "root"), LogDir: filepath.Join(dir, "logs"), CgroupRoot: root, ClusterDNS: []string{"10.96.0.10"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroups(t, root) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if _, err := client.CoreV1().ConfigMaps("ns").Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u1"}, Spec: v1.PodSpec{
		NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways,
		Containers: []v1.Container{{
			Name: "c", Image: "img:1", ImagePullPolicy: v1.PullIfNotPresent,
			EnvFrom: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
		}},
	}}
	pods := client.CoreV1().Pods("ns")
	w, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(20 * time.Second)
	for running := false; !running; {
		select {
		case e := <-w.ResultChan():
			running = e.Object.(*v1.Pod).Status.Phase == v1.PodRunning
		case <-timeout:
			t.Fatalf("the Pod does not run: %v", rt.Calls())
		}
	}
	cfg := rt.Configs()["c"]
	if len(cfg.Envs) != 1 || cfg.Envs[0].Key != "k" || string(cfg.Envs[0].Value) != "v" {
		t.Errorf("environment %v", cfg.Envs)
	}
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup/memory", root, "kubepods/besteffort/podu1")); err != nil && !cgroups.IsCgroup2UnifiedMode() {
		t.Error(err)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := rt.Wait(wait, rt.Empty); err != nil {
		t.Fatalf("left in the runtime: %v", rt.Calls())
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Pod is still there: %v", err)
	}
}

// removeCgroups removes what the kubelet keeps for its next start.
func removeCgroups(t *testing.T, root string) {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + root)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(dirs, "/sys/fs/cgroup"+root) {
		if _, err := os.Stat(d); err == nil {
			if err := cgroups.RemovePath(d); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := New(Config{NodeIPs: []string{"not an address"}})
	if err == nil {
		t.Fatal("an empty configuration was taken")
	}
}
