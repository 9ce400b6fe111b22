package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/kubelet/pod"
)

// boundClaim returns claim "data" of namespace ns, and the local volume that it is bound to.
func boundClaim(t *testing.T) (*v1.PersistentVolumeClaim, *v1.PersistentVolume) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "ns", UID: "claim-1"},
		Spec:   v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status: v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound}}
	v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
		ClaimRef:               &v1.ObjectReference{Namespace: "ns", Name: "data", UID: "claim-1"},
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: dir}},
		NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
			{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"n1"}}}}}}},
	}}
	return c, v
}

func claimVolume(readOnly bool) v1.Volume {
	return v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data", ReadOnly: readOnly}}}
}

func TestLocalVolumeOutlivesThePod(t *testing.T) {
	c, v := boundClaim(t)
	m, _ := newManager(t, c, v)
	p := podWith(claimVolume(false))
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	for range 2 { // idempotent
		if err := m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
	if err != nil || len(mounts) != 1 || mounts[0].Readonly {
		t.Fatalf("mounts %v, %v", mounts, err)
	}
	if list, _ := mountsBelow(mounts[0].HostPath); len(list) != 1 {
		t.Errorf("mounted %d times", len(list))
	}
	if err := os.WriteFile(filepath.Join(mounts[0].HostPath, "kept"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(v.Spec.Local.Path, &st); err != nil || st.Gid != 2000 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("volume of group %d, mode %o (%v)", st.Gid, st.Mode, err)
	}
	m.objects.mu.Lock()
	if left := len(m.objects.watched); left != 2 {
		t.Errorf("%d objects are watched where all is settled; the claim and the volume may grow", left)
	}
	m.objects.mu.Unlock()
	// A second Pod has another group in mind; the first one has the volume.
	q := podWith(claimVolume(false))
	q.UID, q.Spec.SecurityContext = "uid-2", &v1.PodSecurityContext{FSGroup: ptr.To[int64](3000)}
	if err := m.Prepare(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(v.Spec.Local.Path, &st); err != nil || st.Gid != 2000 {
		t.Errorf("volume of group %d (%v)", st.Gid, err)
	}
	if err := m.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(v.Spec.Local.Path, "kept")); string(b) != "data" {
		t.Errorf("after the Pod the volume holds %q", b)
	}
}

// A claim that becomes bound has a Pod prepared by its worker and refreshed by its event, both at once.
func TestPrepareWhileRefreshing(t *testing.T) {
	c, v := boundClaim(t)
	m, _ := newManager(t, c, v)
	done := make(chan error, 100)
	for i := range cap(done) {
		p := podWith(claimVolume(false))
		p.UID = types.UID(fmt.Sprint("uid-", i/2))
		p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
		go func() { done <- m.Prepare(context.Background(), p) }()
	}
	deadline := time.After(60 * time.Second)
	for range cap(done) {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-deadline:
			t.Fatal("one waits for the other for ever")
		}
	}
}

func TestReadOnlyClaimAndMountOptions(t *testing.T) {
	c, v := boundClaim(t)
	v.Spec.MountOptions = []string{"noexec", "nosuid,noatime"}
	m, _ := newManager(t, c, v)
	p := podWith(claimVolume(true))
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
	if err != nil || !mounts[0].Readonly || strings.Join(mounts[0].MountOptions, " ") != "nosuid noexec noatime" {
		t.Fatalf("mounts %v, %v", mounts, err)
	}
	var st unix.Statfs_t
	const want = unix.ST_RDONLY | unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_NOATIME
	if err := unix.Statfs(mounts[0].HostPath, &st); err != nil || st.Flags&want != want {
		t.Errorf("mounted with flags %x (%v)", st.Flags, err)
	}
	if err := os.WriteFile(filepath.Join(v.Spec.Local.Path, "f"), nil, 0o600); err != nil {
		t.Errorf("the volume itself is read-only: %v", err)
	}
	// No directory is made for a subPath of what is read-only.
	p.Spec.Containers[0].VolumeMounts[0].SubPath = "new"
	if _, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil); err == nil {
		t.Error("a subPath was made")
	}
}

// A Pod waits for its claim, and is told when it may have come.
func TestClaimBecomesBound(t *testing.T) {
	c, v := boundClaim(t)
	pending := c.DeepCopy()
	pending.Status.Phase = v1.ClaimPending
	m, client := newManager(t, v)
	p := podWith(claimVolume(false))
	prepare := func(want string) <-chan struct{} {
		t.Helper()
		err := m.Prepare(t.Context(), p)
		var retry *pod.RetryError
		if !errors.As(err, &retry) || err.Error() != want {
			t.Fatalf("error %v, want %s", err, want)
		}
		return retry.Ready
	}
	await := func(ready <-chan struct{}) {
		t.Helper()
		select {
		case <-ready:
		case <-time.After(60 * time.Second):
			t.Fatal("not told of the change")
		}
	}
	const head = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC ns/data: "
	ready := prepare(head + `failed to fetch PVC from API server: persistentvolumeclaims "data" not found`)
	if _, err := client.CoreV1().PersistentVolumeClaims("ns").Create(t.Context(), pending, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(ready)
	ready = prepare(head + "PVC is not bound")
	if _, err := client.CoreV1().PersistentVolumeClaims("ns").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(ready)
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// TestClaimsOfOthers: what a Pod must not get, and what it is told.
func TestClaimsOfOthers(t *testing.T) {
	const head = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: "
	own := v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}}
	for name, c := range map[string]struct {
		change func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)
		volume v1.Volume
		want   string
	}{
		"volume of another claim": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "victim", Name: "data", UID: "victim-1"}
		}, claimVolume(false), head + "error processing PVC ns/data: found PV object pv but its pv.Spec.ClaimRef.UID victim-1 does not point to claim.UID claim-1"},
		"volume of an earlier claim of that name": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.ClaimRef.UID = "claim-0" },
			claimVolume(false), head + "error processing PVC ns/data: found PV object pv but its pv.Spec.ClaimRef.UID claim-0 does not point to claim.UID claim-1"},
		"forged namespace": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.ClaimRef.Namespace = "victim" },
			claimVolume(false), head + "error processing PVC ns/data: found PV object pv but its pv.Spec.ClaimRef.UID claim-1 does not point to claim.UID claim-1"},
		"free volume": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.ClaimRef = nil },
			claimVolume(false), head + "error processing PVC ns/data: found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"},
		"no volume": {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Spec.VolumeName = "none" },
			claimVolume(false), head + `error processing PVC ns/data: failed to fetch PV none from API server: persistentvolumes "none" not found`},
		"claim that goes": {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) {
			c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{"kubernetes.io/pvc-protection"}
		}, claimVolume(false), head + "error processing PVC ns/data: PVC is being deleted"},
		"other namespace": {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Namespace = "victim" },
			claimVolume(false), head + `error processing PVC ns/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`},
		"ephemeral, not owned": {func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) { c.Name = "p-v" },
			own, head + "PVC ns/p-v was not created for pod ns/p (pod is not owner)"},
		"other node": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] = "n2"
		}, claimVolume(false), `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		"block in volumeMounts": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
		}, claimVolume(false), head + "volume v has volumeMode Block, but is specified in volumeMounts"},
		"no such path": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.Local.Path = "/nowhere/at/all" },
			claimVolume(false), `MountVolume.SetUp failed for volume "pv" : path "/nowhere/at/all" does not exist`},
		"unknown option": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) { v.Spec.MountOptions = []string{"hard"} },
			claimVolume(false), `MountVolume.SetUp failed for volume "pv" : mount option "hard" is not supported for local directories: remove it from the mountOptions of the volume and its class`},
		"options of hostPath": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.MountOptions, v.Spec.PersistentVolumeSource = []string{"ro"}, v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: v.Spec.Local.Path}}
		}, claimVolume(false), `MountVolume.SetUp failed for volume "pv" : mount options are not supported for this volume type`},
		"other source": {func(_ *v1.PersistentVolumeClaim, v *v1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}}
		}, claimVolume(false), `MountVolume.SetUp failed for volume "pv" : no volume plugin matched: this node mounts persistent volumes with a csi, local or hostPath source only`},
	} {
		t.Run(name, func(t *testing.T) {
			claim, volume := boundClaim(t)
			c.change(claim, volume)
			m, _ := newManager(t, claim, volume)
			p := podWith(c.volume)
			if err := m.Prepare(t.Context(), p); errorText(err) != c.want {
				t.Errorf("error\n%v\nwant\n%s", err, c.want)
			}
			if list, err := mountsBelow(m.podDir(p.UID)); err != nil || len(list) > 0 {
				t.Errorf("mounted: %v, %v", list, err)
			}
			if mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil); err == nil {
				t.Errorf("mounts %v", mounts)
			}
		})
	}
}

func TestHostPathAndEphemeralClaims(t *testing.T) {
	c, v := boundClaim(t)
	path := v.Spec.Local.Path
	v.Spec.PersistentVolumeSource = v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}
	p := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}})
	c.Name, v.Spec.ClaimRef.Name = "p-v", "p-v"
	c.OwnerReferences = []metav1.OwnerReference{{UID: p.UID, Controller: ptr.To(true)}}
	m, _ := newManager(t, c, v)
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	p.Spec.Containers[0].VolumeMounts[0].SubPath = "sub"
	mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mounts[0].HostPath, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "sub/f")); err != nil {
		t.Errorf("the subpath is not the volume's: %v", err)
	}
}

func TestBlockDevice(t *testing.T) {
	c, v := boundClaim(t)
	device := filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))); err != nil {
		t.Skipf("make a block device node: %v", err)
	}
	v.Spec.Local.Path, v.Spec.VolumeMode = device, ptr.To(v1.PersistentVolumeBlock)
	m, _ := newManager(t, c, v)
	p := podWith(claimVolume(false))
	container := &p.Spec.Containers[0]
	container.VolumeMounts, container.VolumeDevices = nil, []v1.VolumeDevice{{Name: "v", DevicePath: "/dev/xvda"}}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	devices, err := m.Devices(t.Context(), p, container)
	if err != nil || len(devices) != 1 || devices[0].HostPath != device || devices[0].ContainerPath != "/dev/xvda" || devices[0].Permissions != "mrw" {
		t.Errorf("devices %v, %v", devices, err)
	}
	// A directory would stand for all devices in it.
	if err := errors.Join(os.Remove(device), os.Mkdir(device, 0o755)); err != nil {
		t.Fatal(err)
	}
	if devices, err := m.Devices(t.Context(), p, container); err == nil {
		t.Errorf("devices %v", devices)
	}
}

// A node that may not read a claim says so, and goes on when it may.
func TestForbiddenClaim(t *testing.T) {
	c, v := boundClaim(t)
	m, client := newManager(t, c, v)
	var allowed atomic.Bool
	client.PrependReactor("list", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
		if allowed.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(v1.Resource("persistentvolumeclaims"), "data", errors.New("no relationship found"))
	})
	p := podWith(claimVolume(false))
	err := m.Prepare(t.Context(), p)
	var retry *pod.RetryError
	if !errors.As(err, &retry) || !strings.Contains(err.Error(), "error processing PVC ns/data: failed to fetch PVC from API server: ") ||
		!strings.Contains(err.Error(), "no relationship found") {
		t.Fatalf("error %v", err)
	}
	allowed.Store(true)
	for err != nil {
		select {
		case <-retry.Ready:
		case <-time.After(60 * time.Second):
			t.Fatal("not told that the claim may be read now")
		}
		if err = m.Prepare(t.Context(), p); err != nil && !errors.As(err, &retry) {
			t.Fatal(err)
		}
	}
}

// A volume for one Pod is for one Pod, also where Pods name their node themselves; the next one has it when the first has
// gone.
func TestReadWriteOncePod(t *testing.T) {
	c, v := boundClaim(t)
	v.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	m, _ := newManager(t, c, v)
	p, q := podWith(claimVolume(false)), podWith(claimVolume(false))
	q.UID = "uid-2"
	for range 2 {
		if err := m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	err := m.Prepare(t.Context(), q)
	var retry *pod.RetryError
	if !errors.As(err, &retry) || err.Error() != `MountVolume.SetUp failed for volume "pv" : volume uses the ReadWriteOncePod access mode and is already in use by another pod` {
		t.Fatalf("error %v", err)
	}
	if err := m.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-retry.Ready:
	case <-time.After(60 * time.Second):
		t.Fatal("not told that the first Pod has gone")
	}
	if err := m.Prepare(t.Context(), q); err != nil {
		t.Error(err)
	}
}

// The root directory is reached through a link, so the mount table has other paths: what is mounted must not be emptied.
func TestTeardownThroughALinkKeepsData(t *testing.T) {
	c, v := boundClaim(t)
	m, _ := newManager(t, c, v)
	real := filepath.Join(m.cfg.RootDir, "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	m.cfg.RootDir = link
	p := podWith(claimVolume(false))
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Spec.Local.Path, "kept"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(t.Context(), p.UID); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(v.Spec.Local.Path, "kept")); string(b) != "data" {
		t.Errorf("after the Pod the volume holds %q", b)
	}
}

// A claim that is being deleted starts no Pod, but one that runs keeps it over a restart of the kubelet.
func TestClaimThatGoesStaysWithItsPod(t *testing.T) {
	c, v := boundClaim(t)
	m, client := newManager(t, c, v)
	p := podWith(claimVolume(false))
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	going := c.DeepCopy()
	going.DeletionTimestamp, going.Finalizers = ptr.To(metav1.Now()), []string{"kubernetes.io/pvc-protection"}
	if _, err := client.CoreV1().PersistentVolumeClaims("ns").Update(t.Context(), going, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	next := New(m.cfg)
	done := make(chan error, 1)
	go func() { done <- next.Run(ctx) }()
	if err := next.Prepare(t.Context(), p); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
