package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/internal/testwait"
	"github.com/peapod/peapod/kubelet/plugin"
	"github.com/peapod/peapod/kubelet/pod"
)

func TestTheDriverIsOnTheNode(t *testing.T) {
	w := start(t)
	n, err := w.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || n.Annotations[nodeIDAnnotation] != `{"disks.example.com":"the-node"}` || n.Labels["topology.example.com/rack"] != "r1" {
		t.Errorf("node %v %v, %v", n.Annotations, n.Labels, err)
	}
	c, err := w.client.StorageV1().CSINodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || len(c.OwnerReferences) != 1 || c.OwnerReferences[0].UID != "node-uid" || len(c.Spec.Drivers) != 1 {
		t.Fatalf("CSINode %+v, %v", c, err)
	}
	if d := c.Spec.Drivers[0]; d.Name != driverName || d.NodeID != "the-node" || *d.Allocatable.Count != 7 || !slices.Equal(d.TopologyKeys, []string{"topology.example.com/rack"}) {
		t.Errorf("driver %+v", d)
	}
	scraped := httptest.NewRecorder()
	w.metrics.Kubelet().ServeHTTP(scraped, httptest.NewRequest("GET", "/metrics", nil))
	if line := `csi_operations_seconds_count{driver_name="` + driverName + `",grpc_status_code="OK",method_name="/csi.v1.Node/NodeGetInfo",migrated="false"} 1`; !strings.Contains(scraped.Body.String(), line) {
		t.Errorf("not in the metrics: %s", line)
	}
	w.end()
	w.until("the driver is gone", func() bool {
		c, err := w.client.StorageV1().CSINodes().Get(t.Context(), "n1", metav1.GetOptions{})
		n, err2 := w.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil && err2 == nil && len(c.Spec.Drivers) == 0 && n.Annotations[nodeIDAnnotation] == ""
	})
	w.startDriver()
	if c, err = w.client.StorageV1().CSINodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil || len(c.Spec.Drivers) != 1 {
		t.Errorf("CSINode %+v, %v", c, err)
	}
	// The kubelet's end is not the driver's.
	w.stop()
	if c, err = w.client.StorageV1().CSINodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil || len(c.Spec.Drivers) != 1 {
		t.Errorf("CSINode %+v, %v", c, err)
	}
}

func TestDriversThatAreNone(t *testing.T) {
	p := New(Config{Client: fake.NewClientset(), NodeName: "n1", RootDir: t.TempDir()})
	for _, bad := range []plugin.Plugin{
		{Name: "../../etc", Versions: []string{"1.0.0"}}, {Name: "", Versions: []string{"1.0.0"}}, {Name: "a/b", Versions: []string{"1.0.0"}},
		{Name: "ok", Versions: nil}, {Name: "ok", Versions: []string{"0.3.0", "2.0.0", "x"}}, {Name: strings.Repeat("a", 64), Versions: []string{"1.0.0"}},
	} {
		bad.Endpoint = "/nowhere"
		if err := p.Register(t.Context(), bad); err == nil {
			t.Errorf("%+v is registered", bad)
		}
	}
}

func TestVolumeOfSeveralPods(t *testing.T) {
	w := start(t, noAttach(nil))
	p, q := user("p"), user("q")
	var owned atomic.Int32
	v := persistent(p)
	v.Own = func(path string) error { owned.Add(1); return os.Chown(path, 0, 2000) }
	got, err := w.setUp(v)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(got.Path, &st); err != nil || st.Gid != 2000 || owned.Load() != 1 {
		t.Errorf("group %d after %d calls, %v", st.Gid, owned.Load(), err)
	}
	if err := os.WriteFile(filepath.Join(got.Path, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := persistent(q)
	other.ReadOnly = true
	second, err := w.setUp(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(second.Path, "no"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a volume that is read-only takes a file: %v", err)
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(second.Path, "file")); string(b) != "kept" {
		t.Errorf("the other Pod reads %q, %v", b, err)
	}
	if err := w.csi.TearDown(t.Context(), q.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return strings.HasSuffix(w.called(), "unstage h1") && len(mountsBelow(t, w.root)) == 0 })
	if got := w.called(); got != "stage h1, publish h1, publish h1, unpublish h1, unpublish h1, unstage h1" {
		t.Errorf("calls: %s", got)
	}
	w.until("no directory is left", func() bool {
		_, err := os.Lstat(filepath.Join(w.root, "plugins", csiname.Plugin, driverName))
		return errors.Is(err, os.ErrNotExist)
	})
}

// A kubelet that is killed knows all at its next start: what is published needs no call, and what nobody has any more is undone.
func TestRestart(t *testing.T) {
	w := start(t, noAttach(nil))
	p, gone := user("p"), user("gone")
	if _, err := w.setUp(persistent(p)); err != nil {
		t.Fatal(err)
	}
	lost := persistent(gone)
	lost.Persistent.Name, lost.Persistent.Spec.CSI.VolumeHandle = "pv2", "h2"
	if _, err := w.setUp(lost); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.end()
	before := w.called()
	w.run()
	if !w.csi.Has(gone.UID) || w.csi.Has("uid-none") {
		t.Error("the Pods with volumes are not known")
	}
	finished := make(chan context.Context, 1)
	w.csi.Abandon(gone.UID, func(ctx context.Context) error { finished <- ctx; return nil }) // its driver is not there yet
	if _, err := w.setUp(persistent(p)); err != nil {
		t.Fatal(err)
	}
	if got := w.called(); got != before {
		t.Errorf("calls after the restart: %s", strings.TrimPrefix(got, before))
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err == nil || !strings.Contains(err.Error(), "not found in the list of registered CSI drivers") {
		t.Errorf("without its driver a volume is unmounted: %v", err)
	}
	w.startDriver()
	var background context.Context
	select {
	case background = <-finished:
	case <-time.After(patience):
		t.Fatal("what is left of a Pod that has gone stays")
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool {
		return strings.Contains(w.called(), "unstage h1") && strings.Contains(w.called(), "unstage h2") && len(mountsBelow(t, w.root)) == 0
	})
	w.stop()
	if background.Err() == nil {
		t.Error("what is done in the background does not end with the kubelet")
	}
}

// A crash while the driver is at work: it is asked again, and undoes whatever it did.
func TestCrashWhileMounting(t *testing.T) {
	w := start(t, noAttach(nil))
	entered, release := make(chan struct{}), make(chan struct{})
	w.intercept(func(ctx context.Context, r any) error {
		if _, ok := r.(*csi.NodePublishVolumeRequest); ok {
			close(entered)
			<-release
			return status.Error(codes.Unavailable, "crashed")
		}
		return nil
	})
	p := user("p")
	if _, err := w.csi.SetUp(persistent(p), true); err == nil {
		t.Fatal("set up at once")
	}
	<-entered
	w.stop()
	close(release)
	w.intercept(nil)
	w.end()
	w.run()
	w.startDriver()
	var quiet *pod.RetryError
	if _, err := w.csi.SetUp(persistent(p), false); !errors.As(err, &quiet) || !quiet.Quiet {
		t.Errorf("what was not finished counts as mounted: %v", err)
	}
	if _, err := w.setUp(persistent(p)); err != nil {
		t.Fatal(err)
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return len(mountsBelow(t, w.root)) == 0 })
	if got := w.called(); strings.Count(got, "stage h1,") != 1 {
		t.Errorf("calls: %s", got)
	}
}

// What a driver refuses is told to the Pod, once for each try, and leaves nothing to undo.
func TestDriverRefuses(t *testing.T) {
	w := start(t, noAttach(nil))
	w.intercept(func(_ context.Context, r any) error {
		if _, ok := r.(*csi.NodePublishVolumeRequest); ok {
			return status.Error(codes.InvalidArgument, "no such thing")
		}
		return nil
	})
	p := user("p")
	_, err := w.setUp(persistent(p))
	if err == nil || err.Error() != `MountVolume.SetUp failed for volume "pv1" : rpc error: code = InvalidArgument desc = no such thing` {
		t.Errorf("error %v", err)
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return strings.HasSuffix(w.called(), "unstage h1") })
	if got := w.called(); strings.Contains(got, "unpublish") {
		t.Errorf("what was refused is undone: %s", got)
	}
}

// A driver that never answers holds up nobody, and the Pod can go.
func TestDriverThatHangs(t *testing.T) {
	w := start(t, noAttach(nil))
	entered := make(chan struct{}, 1)
	w.intercept(func(ctx context.Context, r any) error {
		if _, ok := r.(*csi.NodePublishVolumeRequest); ok {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	p := user("p")
	var quiet *pod.RetryError
	if _, err := w.csi.SetUp(persistent(p), true); !errors.As(err, &quiet) || !quiet.Quiet {
		t.Fatalf("error %v", err)
	}
	<-entered
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.until("undone", func() bool {
		return strings.HasSuffix(w.called(), "unpublish h1, unstage h1") && len(mountsBelow(t, w.root)) == 0
	})
}

// A link in the place of a volume would lead the container's mount anywhere.
func TestWhatDriversMayPublish(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := check(Published{Path: dir}); err != nil {
		t.Error(err)
	}
	for _, bad := range []Published{{Path: link}, {Path: file}, {Path: filepath.Join(dir, "nothing")}, {Path: dir, Block: true}, {Path: file, Block: true}, {Path: "/dev/null", Block: true}} {
		if check(bad) == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestInlineVolume(t *testing.T) {
	w := start(t, noAttach(func(s *storagev1.CSIDriverSpec) {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}
		s.PodInfoOnMount = ptr.To(true)
		s.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
	}), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: map[string][]byte{"k": []byte("v")}})
	secret := make(chan map[string]string, 10)
	w.intercept(func(_ context.Context, r any) error {
		if r, ok := r.(*csi.NodePublishVolumeRequest); ok {
			secret <- r.Secrets
		}
		return nil
	})
	v := Volume{Pod: user("p"), Named: "v", Inline: &v1.CSIVolumeSource{Driver: driverName, VolumeAttributes: map[string]string{"a": "b"},
		NodePublishSecretRef: &v1.LocalObjectReference{Name: "key"}},
		Token: func(_ context.Context, audience string, _ *int64) (authenticationv1.TokenRequestStatus, error) {
			return authenticationv1.TokenRequestStatus{Token: "for " + audience}, nil
		}}
	got, err := w.setUp(v)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(got.Path, "told"))
	if err != nil {
		t.Fatal(err)
	}
	var told map[string]string
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatal(err)
	}
	const prefix = "csi.storage.k8s.io/"
	for key, want := range map[string]string{"a": "b", prefix + "pod.name": "p", prefix + "pod.namespace": "ns", prefix + "pod.uid": string(v.Pod.UID),
		prefix + "serviceAccount.name": "sa", prefix + "ephemeral": "true", prefix + "serviceAccount.tokens": `{"vault":{"token":"for vault","expirationTimestamp":null}}`} {
		if told[key] != want {
			t.Errorf("%s is %q, not %q", key, told[key], want)
		}
	}
	if s := <-secret; s["k"] != "v" {
		t.Errorf("secrets %v", s)
	}
	if err := w.csi.TearDown(t.Context(), v.Pod.UID); err != nil {
		t.Fatal(err)
	}
	// A persistent volume is not what this driver is for.
	if _, err := w.setUp(persistent(user("p"))); err == nil || !strings.Contains(err.Error(), `volume mode "Persistent" not supported by driver `+driverName+` (only supports ["Ephemeral"])`) {
		t.Errorf("error %v", err)
	}
}

// A driver that asks for it is asked every minute to publish again what is published, for as long as it is: so tokens stay valid.
func TestRepublish(t *testing.T) {
	w := start(t, noAttach(func(s *storagev1.CSIDriverSpec) {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}
		s.PodInfoOnMount, s.RequiresRepublish = ptr.To(true), ptr.To(true)
		s.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
	}))
	tokens := 0
	v := Volume{Pod: user("p"), Named: "v", Inline: &v1.CSIVolumeSource{Driver: driverName},
		Token: func(context.Context, string, *int64) (authenticationv1.TokenRequestStatus, error) {
			tokens++
			return authenticationv1.TokenRequestStatus{Token: fmt.Sprint("the ", tokens, ".")}, nil
		}}
	var got Published
	for range 2 { // the Pod's worker asks again, and finds it published
		var err error
		if got, err = w.setUp(v); err != nil {
			t.Fatal(err)
		}
	}
	// expect waits until the clock is set for the next time, and compares what the driver was told.
	expect := func(when, token string) {
		t.Helper()
		w.until(when, w.clock.HasWaiters)
		text, err := os.ReadFile(filepath.Join(got.Path, "told"))
		if err != nil || !strings.Contains(string(text), token) {
			t.Errorf("%s the driver is told %s, %v; want %s", when, text, err, token)
		}
	}
	expect("at first", "the 1.")
	w.clock.Step(RepublishEvery - time.Second)
	expect("before the time", "the 1.")
	w.clock.Step(time.Second)
	expect("after a minute", "the 2.")
	w.intercept(func(context.Context, any) error { return errors.New("not now") })
	w.clock.Step(RepublishEvery)
	expect("where the driver fails", "the 2.")
	w.intercept(nil)
	if _, err := w.setUp(v); err != nil {
		t.Errorf("the failure is the Pod's: %v", err)
	}
	w.clock.Step(RepublishEvery)
	expect("a minute later", "the 4.")
	if err := w.csi.TearDown(t.Context(), v.Pod.UID); err != nil {
		t.Fatal(err)
	}
	if w.clock.HasWaiters() {
		t.Error("a volume that is gone is to be published again")
	}
}

func TestBlockVolume(t *testing.T) {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("this machine has no loop devices")
	}
	w := start(t, noAttach(nil))
	v := persistent(user("p"))
	v.Persistent.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
	for range 2 {
		got, err := w.setUp(v)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(got.Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := f.Seek(0, 2); size != 4<<20 || !got.Block {
			t.Errorf("block %v, %d bytes, %v", got.Block, size, err)
		}
		f.Close()
		w.stop()
		w.end()
		w.run()
		w.startDriver()
	}
	if err := w.csi.TearDown(t.Context(), v.Pod.UID); err != nil {
		t.Fatal(err)
	}
	w.until("unstaged", func() bool { return strings.HasSuffix(w.called(), "unstage h1") })
	if got := w.called(); got != "stage h1, publish h1, unpublish h1, unstage h1" {
		t.Errorf("calls: %s", got)
	}
}

// A volume that has to be attached is mounted when the Node says both that the node uses it and that it is attached, and no sooner.
func TestAttached(t *testing.T) {
	w := start(t) // no CSIDriver object: volumes have to be attached
	contexts := make(chan map[string]string, 10)
	w.intercept(func(_ context.Context, r any) error {
		if r, ok := r.(*csi.NodeStageVolumeRequest); ok {
			contexts <- r.PublishContext
		}
		return nil
	})
	name := csiname.Volume(driverName, "h1")
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid", ResourceVersion: "10"}}
	// What is attached of old is not believed while the node has not said that it uses it.
	node.Status.VolumesAttached = []v1.AttachedVolume{{Name: name}}
	w.csi.NodeChanged(node)
	p := user("p")
	if _, err := w.csi.SetUp(persistent(p), true); err == nil {
		t.Fatal("set up at once")
	}
	select {
	case <-w.kicked:
	case <-time.After(patience):
		t.Fatal("the node is not told what is used")
	}
	used, ok := w.csi.InUse()
	if !ok || !slices.Equal(used, []v1.UniqueVolumeName{name}) {
		t.Errorf("in use: %v, %v", used, ok)
	}
	a := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: csiname.Attachment("h1", driverName, "n1")},
		Status: storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"device": "sdx"}}}
	if _, err := w.client.StorageV1().VolumeAttachments().Create(t.Context(), a, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := node.DeepCopy()
	second.ResourceVersion, second.Status.VolumesInUse, second.Status.VolumesAttached = "11", used, nil
	w.csi.NodeChanged(second)
	if got := w.called(); got != "" {
		t.Errorf("calls before the volume is attached: %s", got)
	}
	third := second.DeepCopy()
	third.ResourceVersion, third.Status.VolumesAttached = "12", node.Status.VolumesAttached
	w.csi.NodeChanged(third)
	w.csi.NodeChanged(second) // the watch is late
	if _, err := w.setUp(persistent(p)); err != nil {
		t.Fatal(err)
	}
	if got := <-contexts; got["device"] != "sdx" {
		t.Errorf("publish context %v", got)
	}
	if err := w.csi.TearDown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, w.waiting("not in use"), func() <-chan struct{} { return w.kicked }, func() bool { used, _ := w.csi.InUse(); return len(used) == 0 })
	if got := w.called(); !strings.HasSuffix(got, "unstage h1") {
		t.Errorf("not in use before it is unstaged: %s", got)
	}
}

// A node without drivers says so, and keeps what it has said.
func TestAnnounce(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	if err := w.client.StorageV1().CSINodes().Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.csi.announce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c, err := w.client.StorageV1().CSINodes().Get(ctx, "n1", metav1.GetOptions{})
	if err != nil || len(c.Spec.Drivers) != 0 || len(c.OwnerReferences) != 1 || c.OwnerReferences[0].UID != "node-uid" {
		t.Errorf("CSINode %+v, %v", c, err)
	}
}
