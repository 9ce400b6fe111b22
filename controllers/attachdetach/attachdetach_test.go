package attachdetach_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/attachdetach"
	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/test/controltest"
)

const (
	ns     = controltest.Namespace
	driver = "disks.example.com"
)

// world has two nodes, and a claim that is bound to a volume of the driver.
type world struct {
	*controltest.World
	t *testing.T
}

func start(t *testing.T, modes ...corev1.PersistentVolumeAccessMode) *world {
	t.Helper()
	w, bind := unbound(t, modes...)
	bind()
	return w
}

// unbound is the world before the claim is bound, and what binds it.
func unbound(t *testing.T, modes ...corev1.PersistentVolumeAccessMode) (*world, func()) {
	t.Helper()
	w := &world{controltest.Start(t, attachdetach.New), t}
	w.Watch(t, w.Informers.Storage().V1().VolumeAttachments().Informer())
	w.Watch(t, w.Informers.Core().V1().Nodes().Informer())
	for _, name := range []string{"n1", "n2"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
		_, err := w.Client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
		w.must(err)
	}
	if len(modes) == 0 {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	class := ""
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, VolumeName: "pv1", StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{})
	w.must(err)
	_, err = w.Client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: modes, Capacity: size, ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: "data", UID: c.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: "h1"}}}}, metav1.CreateOptions{})
	w.must(err)
	return w, func() {
		t.Helper()
		c.Status.Phase = corev1.ClaimBound
		_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
		w.must(err)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pod makes a Pod on a node that has the claim.
func (w *world) pod(name, node string) *corev1.Pod {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
	p.Spec.NodeName = node
	p.Spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	p, err := w.Client.CoreV1().Pods(ns).Create(w.t.Context(), p, metav1.CreateOptions{})
	w.must(err)
	return p
}

func name(node string) string { return csiname.Attachment("h1", driver, node) }

// attachment waits for that of the node.
func (w *world) attachment(node string) (a *storagev1.VolumeAttachment) {
	w.t.Helper()
	w.Await(w.t, "volume is to be attached to "+node, func() bool {
		var err error
		a, err = w.Client.StorageV1().VolumeAttachments().Get(w.t.Context(), name(node), metav1.GetOptions{})
		return err == nil
	})
	return a
}

func (w *world) detached(node string) {
	w.t.Helper()
	w.Await(w.t, "volume is detached from "+node, func() bool { return w.absent(node) })
}

func (w *world) absent(node string) bool {
	_, err := w.Client.StorageV1().VolumeAttachments().Get(w.t.Context(), name(node), metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// answer plays the driver's controller.
func (w *world) answer(node string, s storagev1.VolumeAttachmentStatus) {
	w.t.Helper()
	a := w.attachment(node).DeepCopy()
	a.Status = s
	_, err := w.Client.StorageV1().VolumeAttachments().UpdateStatus(w.t.Context(), a, metav1.UpdateOptions{})
	w.must(err)
}

func (w *world) patchNode(node string, patch any, sub ...string) {
	w.t.Helper()
	body, err := json.Marshal(patch)
	w.must(err)
	_, err = w.Client.CoreV1().Nodes().Patch(w.t.Context(), node, types.MergePatchType, body, metav1.PatchOptions{}, sub...)
	w.must(err)
}

// inUse plays the kubelet.
func (w *world) inUse(node string, volumes ...corev1.UniqueVolumeName) {
	w.t.Helper()
	w.patchNode(node, map[string]any{"status": map[string]any{"volumesInUse": volumes}}, "status")
}

func (w *world) reported(node string, want bool) {
	w.t.Helper()
	w.Await(w.t, "volume is reported", func() bool {
		n, err := w.Client.CoreV1().Nodes().Get(w.t.Context(), node, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == csiname.Volume(driver, "h1") }) == want
	})
}

func TestAttachAndDetach(t *testing.T) {
	w := start(t)
	w.pod("p", "n1")
	a := w.attachment("n1")
	if a.Spec.Attacher != driver || a.Spec.NodeName != "n1" || *a.Spec.Source.PersistentVolumeName != "pv1" {
		t.Errorf("attachment %+v", a.Spec)
	}
	w.answer("n1", storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "no room"}})
	if got := w.Event(t, "p", "FailedAttachVolume", ""); got != `AttachVolume.Attach failed for volume "pv1" : no room` {
		t.Errorf("event %q", got)
	}
	w.answer("n1", storagev1.VolumeAttachmentStatus{Attached: true})
	w.reported("n1", true)
	if got := w.Event(t, "p", "SuccessfulAttachVolume", ""); got != `AttachVolume.Attach succeeded for volume "pv1" ` {
		t.Errorf("event %q", got)
	}
	// What the node uses stays attached, though no Pod needs it any more.
	w.inUse("n1", csiname.Volume(driver, "h1"))
	w.DeletePod(t, "p")
	w.pod("q", "n2")
	if got := w.Event(t, "q", "FailedAttachVolume", ""); got != `Multi-Attach error for volume "pv1" Volume is already exclusively attached to one node and can't be attached to another` {
		t.Errorf("event %q", got)
	}
	if w.absent("n1") || !w.absent("n2") {
		t.Error("a volume that is in use is detached, or attached twice")
	}
	w.inUse("n1")
	w.detached("n1")
	w.reported("n1", false)
	w.attachment("n2")
}

func TestSharedVolumeIsOnSeveralNodes(t *testing.T) {
	w := start(t, corev1.ReadWriteMany)
	w.pod("p", "n1")
	w.pod("q", "n2")
	w.attachment("n1")
	w.attachment("n2")
}

// The Pod that is in the way is named to who may see it.
func TestVolumeIsUsedElsewhere(t *testing.T) {
	w := start(t)
	w.pod("p", "n1")
	w.attachment("n1")
	w.pod("q", "n2")
	if got := w.Event(t, "q", "FailedAttachVolume", ""); !strings.HasSuffix(got, "Volume is already used by pod(s) p") {
		t.Errorf("event %q", got)
	}
}

// Two nodes want the volume in the same moment: one gets it, and the other is told.
func TestOneOfTwoNodesGetsAVolume(t *testing.T) {
	w, bind := unbound(t)
	w.pod("p", "n1")
	w.pod("q", "n2")
	bind()
	loser := map[string]string{name("n1"): "q", name("n2"): "p"}
	var have []string
	w.Await(t, "volume is to be attached", func() bool {
		list, err := w.Client.StorageV1().VolumeAttachments().List(t.Context(), metav1.ListOptions{})
		w.must(err)
		for _, a := range list.Items {
			have = append(have, a.Name)
		}
		return len(have) > 0
	})
	w.Event(t, loser[have[0]], "FailedAttachVolume", "")
	list, err := w.Client.StorageV1().VolumeAttachments().List(t.Context(), metav1.ListOptions{})
	w.must(err)
	if len(list.Items) != 1 {
		t.Errorf("attached to %d nodes", len(list.Items))
	}
}

func TestDriverThatAttachesNothing(t *testing.T) {
	w := start(t)
	w.pod("p", "n1")
	w.attachment("n1")
	no := false
	_, err := w.Client.StorageV1().CSIDrivers().Create(t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driver},
		Spec: storagev1.CSIDriverSpec{AttachRequired: &no}}, metav1.CreateOptions{})
	w.must(err)
	w.detached("n1")
}

// A node that is vouched to be off keeps nothing.
func TestNodeOutOfService(t *testing.T) {
	w := start(t)
	w.pod("p", "n1")
	w.answer("n1", storagev1.VolumeAttachmentStatus{Attached: true})
	w.reported("n1", true)
	w.inUse("n1", csiname.Volume(driver, "h1"))
	w.DeletePod(t, "p")
	w.patchNode("n1", map[string]any{"spec": map[string]any{"taints": []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}}}})
	w.detached("n1")
}

// What others attach under names of their own is theirs.
func TestForeignAttachmentStays(t *testing.T) {
	w := start(t)
	volume := "pv1"
	_, err := w.Client.StorageV1().VolumeAttachments().Create(t.Context(), &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: driver, NodeName: "n2", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}}}, metav1.CreateOptions{})
	w.must(err)
	w.pod("p", "n2")
	w.attachment("n2")
	w.DeletePod(t, "p")
	w.detached("n2")
	if _, err := w.Client.StorageV1().VolumeAttachments().Get(t.Context(), "by-hand", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
