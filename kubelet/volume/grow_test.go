package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
)

// sized is boundClaim, where both are of 32Mi.
func sized(t *testing.T) (*v1.PersistentVolumeClaim, *v1.PersistentVolume) {
	c, v := boundClaim(t)
	size := v1.ResourceList{v1.ResourceStorage: resource.MustParse("32Mi")}
	c.Status.Capacity, v.Spec.Capacity = size, size.DeepCopy()
	return c, v
}

// grower is a manager whose events are kept.
type grower struct {
	*Manager
	t      *testing.T
	client *fake.Clientset
	events chan string
	claims watch.Interface
}

func newGrower(t *testing.T, objects ...runtime.Object) *grower {
	t.Helper()
	m, client := newManager(t, objects...)
	g := &grower{Manager: m, t: t, client: client, events: make(chan string, 100)}
	m.cfg.Event = func(about runtime.Object, _, reason, message string) {
		kind := "claim"
		if _, ok := about.(*v1.Pod); ok {
			kind = "pod"
		}
		g.events <- kind + " " + reason + " " + message
	}
	var err error
	if g.claims, err = client.CoreV1().PersistentVolumeClaims("ns").Watch(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.claims.Stop)
	return g
}

// says waits for events, in this order.
func (g *grower) says(want ...string) {
	g.t.Helper()
	for _, text := range want {
		select {
		case got := <-g.events:
			if got != text {
				g.t.Errorf("event %q, want %q", got, text)
			}
		case <-time.After(time.Minute):
			g.t.Fatalf("no event %q", text)
		}
	}
}

// claim waits until the claim is as said.
func (g *grower) claim(what string, ok func(*v1.PersistentVolumeClaim) bool) {
	g.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case e := <-g.claims.ResultChan():
			if c, isClaim := e.Object.(*v1.PersistentVolumeClaim); isClaim && ok(c) {
				return
			}
		case <-limit:
			g.t.Fatalf("the claim is never %s", what)
		}
	}
}

func (g *grower) setCapacity(size string) {
	g.t.Helper()
	body := []byte(`{"spec":{"capacity":{"storage":"` + size + `"}}}`)
	if _, err := g.client.CoreV1().PersistentVolumes().Patch(g.t.Context(), "pv", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		g.t.Fatal(err)
	}
}

func has(size string) func(*v1.PersistentVolumeClaim) bool {
	return func(c *v1.PersistentVolumeClaim) bool {
		return c.Status.Capacity.Storage().Cmp(resource.MustParse(size)) == 0 && claimgrowth.Stage(c) == ""
	}
}

const grownEvent = ` FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume "pv" n1`

// room is the size of the file system that the Pod has.
func (g *grower) room(p *v1.Pod) int64 {
	g.t.Helper()
	mounts, err := g.Mounts(g.t.Context(), p, &p.Spec.Containers[0], nil)
	if err != nil || len(mounts) != 1 {
		g.t.Fatalf("mounts %v, %v", mounts, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mounts[0].HostPath, &st); err != nil {
		g.t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize
}

// TestDeviceGrows: a file system gets the room that its device has when the volume is said to be larger, while it is mounted and
// when it is mounted next.
func TestDeviceGrows(t *testing.T) {
	if may, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err != nil || may == 0 {
		t.Skipf("this machine lets nobody resize a file system that is mounted: CAP_SYS_RESOURCE is missing (%v)", err)
	}
	c, v := sized(t)
	device, enlarge := growingDevice(t)
	v.Spec.Local.Path = device
	g := newGrower(t, c, v)
	p := podWith(claimVolume(false))
	if err := g.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	small := g.room(p)
	enlarge(64 << 20)
	g.setCapacity("64Mi")
	g.says("pod"+grownEvent, "claim"+grownEvent)
	g.claim("of 64Mi", has("64Mi"))
	if now := g.room(p); now < small*3/2 {
		t.Errorf("the file system has %d bytes of 64 MiB, and had %d of 32 MiB", now, small)
	}
	if err := g.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	enlarge(128 << 20)
	g.setCapacity("128Mi")
	q := podWith(claimVolume(false))
	q.UID = "uid-2"
	if err := g.Prepare(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	g.says("pod"+grownEvent, "claim"+grownEvent)
	if now := g.room(q); now < small*3 {
		t.Errorf("the file system has %d bytes of 128 MiB, and had %d of 32 MiB", now, small)
	}
}

// TestDirectoryGrows: a directory has no size, so that the claim has what the volume is said to have; the built-in provisioner's
// volumes are not the node's to grow.
func TestDirectoryGrows(t *testing.T) {
	c, v := sized(t)
	v.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("64Mi")
	g := newGrower(t, c, v)
	if err := g.Prepare(t.Context(), podWith(claimVolume(false))); err != nil {
		t.Fatal(err)
	}
	g.says("pod"+grownEvent, "claim"+grownEvent)
	g.claim("of 64Mi", has("64Mi"))

	c, v = sized(t)
	v.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("64Mi")
	v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": localpath.Provisioner}
	own := newGrower(t, c, v)
	if err := own.Prepare(t.Context(), podWith(claimVolume(false))); err != nil {
		t.Fatal(err)
	}
	now, err := own.client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil || !has("32Mi")(now) || len(own.events) != 0 {
		t.Errorf("the claim has %v, %v, %d events", now.Status.Capacity, err, len(own.events))
	}
	own.objects.mu.Lock()
	defer own.objects.mu.Unlock()
	if left := len(own.objects.watched); left != 0 {
		t.Errorf("%d objects are watched though all is settled", left)
	}
}

// TestTheResizerIsWaitedFor: where a resizer says how far it is, the node waits for its turn, and goes to the size that was begun.
func TestTheResizerIsWaitedFor(t *testing.T) {
	c, v := sized(t)
	v.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("64Mi")
	claimgrowth.Begin(c, resource.MustParse("48Mi"))
	g := newGrower(t, c, v)
	if err := g.Prepare(t.Context(), podWith(claimVolume(false))); err != nil {
		t.Fatal(err)
	}
	if len(g.events) != 0 {
		t.Fatalf("grown before its turn: %s", <-g.events)
	}
	pending := c.DeepCopy()
	pending.Status.AllocatedResourceStatuses[v1.ResourceStorage] = v1.PersistentVolumeClaimNodeResizePending
	if _, err := g.client.CoreV1().PersistentVolumeClaims("ns").UpdateStatus(t.Context(), pending, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	g.says("pod"+grownEvent, "claim"+grownEvent)
	g.claim("in the node's hands", func(c *v1.PersistentVolumeClaim) bool {
		return claimgrowth.Stage(c) == v1.PersistentVolumeClaimNodeResizeInProgress
	})
	g.claim("of 48Mi", has("48Mi"))
}

// TestFailureIsInTheClaim: where a resizer says how far it is, the claim says what hinders the node.
func TestFailureIsInTheClaim(t *testing.T) {
	c, v := sized(t)
	v.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("64Mi")
	claimgrowth.Begin(c, resource.MustParse("48Mi"))
	g := newGrower(t, c, v)
	if err := g.Prepare(t.Context(), podWith(claimVolume(false))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.Spec.Local.Path); err != nil {
		t.Fatal(err)
	}
	pending := c.DeepCopy()
	pending.Status.AllocatedResourceStatuses[v1.ResourceStorage] = v1.PersistentVolumeClaimNodeResizePending
	if _, err := g.client.CoreV1().PersistentVolumeClaims("ns").UpdateStatus(t.Context(), pending, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	g.claim("said to fail", func(c *v1.PersistentVolumeClaim) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(have v1.PersistentVolumeClaimCondition) bool {
			return have.Type == v1.PersistentVolumeClaimNodeResizeError && have.Status == v1.ConditionTrue && strings.Contains(have.Message, "no such file")
		})
	})
}

func TestReadOnlyDoesNotGrow(t *testing.T) {
	c, v := sized(t)
	v.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("64Mi")
	g := newGrower(t, c, v)
	if err := g.Prepare(t.Context(), podWith(claimVolume(true))); err != nil {
		t.Fatal(err)
	}
	const text = ` FileSystemResizeFailed MountVolume.NodeExpandVolume failed for volume "pv" requested read-only file system`
	g.says("pod"+text, "claim"+text)
}

// TestGrowthFails: a volume that is mounted stays so, and it is tried again; one that is being mounted is not.
func TestGrowthFails(t *testing.T) {
	c, v := sized(t)
	device, _ := growingDevice(t)
	v.Spec.Local.Path = device
	g := newGrower(t, c, v)
	p := podWith(claimVolume(false))
	if err := g.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	refused := apierrors.NewForbidden(v1.Resource("persistentvolumeclaims"), "data", errors.New("not today"))
	allowed := make(chan struct{})
	g.client.PrependReactor("patch", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-allowed:
			return false, nil, nil
		default:
			return true, nil, refused
		}
	})
	g.setCapacity("64Mi")
	const why = `NodeExpandVolume.NodeExpandVolume failed for volume "pv" : `
	for said := false; !said; {
		select {
		case e := <-g.events:
			said = strings.HasPrefix(e, "pod VolumeResizeFailed "+why) && strings.HasSuffix(e, "not today")
		case <-time.After(time.Minute):
			t.Fatal("the failure is not said")
		}
	}
	if err := g.Prepare(t.Context(), p); err != nil {
		t.Errorf("a volume that is mounted is in the way: %v", err)
	}
	q := podWith(claimVolume(false))
	q.UID = "uid-2"
	const mounting = `MountVolume.Setup failed while expanding volume for volume "pv" : `
	if err := g.Prepare(t.Context(), q); err == nil || !strings.HasPrefix(err.Error(), mounting) {
		t.Errorf("mounted with: %v", err)
	}
	close(allowed)
	g.claim("of 64Mi", has("64Mi"))
	if _, err := os.Stat(filepath.Join(g.podDir(p.UID), "volumes")); err != nil {
		t.Error(err)
	}
	if err := g.Prepare(context.Background(), q); err != nil {
		t.Error(err)
	}
}
