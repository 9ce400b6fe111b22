package csi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/testwait"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/plugin"
	"github.com/peapod/peapod/kubelet/pod"
	disks "github.com/peapod/peapod/test/images/csidriver/driver"
)

const (
	driverName = "disks.example.com"
	patience   = 2 * time.Minute
)

// world is a node with a kubelet's directory and, mostly, a driver that really mounts.
type world struct {
	t      *testing.T
	root   string
	clock  *clocktesting.FakeClock
	client *fake.Clientset
	csi    *Plugin

	metrics *metrics.Set
	kicked  chan struct{}
	stop    func()

	mu     sync.Mutex
	before func(context.Context, any) error
	calls  []string
	driver *disks.Driver
	lacks  []csi.NodeServiceCapability_RPC_Type // what the next driver does not say to be able to do
	end    func()                               // of the driver
}

func (w *world) seen(ctx context.Context, request any) error {
	w.mu.Lock()
	switch r := request.(type) {
	case *csi.NodeStageVolumeRequest:
		w.calls = append(w.calls, "stage "+r.VolumeId)
	case *csi.NodeUnstageVolumeRequest:
		w.calls = append(w.calls, "unstage "+r.VolumeId)
	case *csi.NodePublishVolumeRequest:
		w.calls = append(w.calls, "publish "+r.VolumeId)
	case *csi.NodeUnpublishVolumeRequest:
		w.calls = append(w.calls, "unpublish "+r.VolumeId)
	}
	before := w.before
	w.mu.Unlock()
	if before != nil {
		return before(ctx, request)
	}
	return nil
}

func (w *world) called() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.calls, ", ")
}

func (w *world) intercept(f func(context.Context, any) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = f
}

// start runs a kubelet's part; without attach the driver's volumes need none.
func start(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	w := &world{t: t, root: t.TempDir(), kicked: make(chan struct{}, 1000), clock: clocktesting.NewFakeClock(time.Now())}
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}}
	w.client = fake.NewClientset(append(objects, node)...)
	t.Cleanup(func() {
		if left := mountsBelow(t, w.root); len(left) > 0 {
			t.Errorf("left mounted: %v", left)
			for _, m := range slices.Backward(left) {
				_ = unix.Unmount(m, unix.MNT_DETACH)
			}
		}
	})
	w.run()
	w.startDriver()
	return w
}

// run is a start of the kubelet; the last one must have stopped.
func (w *world) run() {
	w.metrics = metrics.New()
	w.csi = New(Config{Metrics: w.metrics, Client: w.client, NodeName: "n1", RootDir: w.root, Clock: w.clock, Kick: func() { w.kicked <- struct{}{} }})
	watcher := plugin.New(filepath.Join(w.root, "plugins_registry"), map[string]plugin.Handler{registerapi.CSIPlugin: w.csi})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, f := range []func(context.Context) error{w.csi.Run, watcher.Run} {
		running.Go(func() {
			if err := f(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(w.stop)
}

func (w *world) startDriver() {
	w.t.Helper()
	own := filepath.Join(w.root, "plugins", driverName)
	w.driver = disks.New(disks.Config{Name: driverName, NodeID: "the-node", State: filepath.Join(own, "state"), Socket: filepath.Join(own, "csi.sock"),
		Endpoint: filepath.Join(own, "csi.sock"), Registration: filepath.Join(w.root, "plugins_registry", "reg.sock"),
		MaxVolumes: 7, Topology: map[string]string{"topology.example.com/rack": "r1"}, Before: w.seen, Lacks: w.lacks})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.driver.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.end = sync.OnceFunc(func() { cancel(); <-ended })
	w.t.Cleanup(w.end)
	select {
	case s := <-w.driver.Registered:
		if !s.PluginRegistered {
			w.t.Fatalf("not registered: %s", s.Error)
		}
	case <-time.After(patience):
		w.t.Fatal("the kubelet does not register the driver")
	}
}

// until waits for what there is no event for.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	testwait.Until(w.t, w.waiting(what), testwait.Polling(), ok)
}

func (w *world) waiting(what string) func() string {
	return func() string { return what + "; calls: " + w.called() }
}

// setUp waits until the volume is set up, or has failed.
func (w *world) setUp(v Volume) (Published, error) {
	w.t.Helper()
	end := time.After(patience)
	for {
		got, err := w.csi.SetUp(v, true)
		var retry *pod.RetryError
		if !errors.As(err, &retry) || !retry.Quiet {
			return got, err
		}
		select {
		case <-retry.Ready:
		case <-end:
			w.t.Fatalf("volume is not set up: %v", err)
		}
	}
}

func mountsBelow(t *testing.T, dir string) (out []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

func noAttach(change func(*storagev1.CSIDriverSpec)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}}}
	if change != nil {
		change(&d.Spec)
	}
	return d
}

func disk() *v1.PersistentVolume {
	return &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: v1.PersistentVolumeSpec{AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: "h1", FSType: "ext4"}}}}
}

func user(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID("uid-" + name)}, Spec: v1.PodSpec{ServiceAccountName: "sa"}}
}

func persistent(p *v1.Pod) Volume { return Volume{Pod: p, Named: "data", Persistent: disk()} }
