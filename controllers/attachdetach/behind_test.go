package attachdetach

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/csiname"
)

// byHand is a controller on a real API server that sees what the test shows it, when the test says.
type byHand struct {
	*controller
	t      *testing.T
	api    kubernetes.Interface
	now    *clocktesting.FakePassiveClock
	stores map[string]cache.Indexer
	volume corev1.UniqueVolumeName
}

// attached has volume pv1 attached to node n1, which lists it as in use if inUse says so.
func attached(t *testing.T, inUse bool) *byHand {
	t.Helper()
	api := servertest.Start(t, nil).Client(t)
	b := &byHand{t: t, api: api, now: clocktesting.NewFakePassiveClock(time.Now()), volume: csiname.Volume("d", "h")}
	factory := informers.NewSharedInformerFactory(api, 0)
	c, err := newController(engine.Deps{Client: api, Recorder: &record.FakeRecorder{}, Informers: factory}, b.now)
	b.must(err)
	b.controller = c.(*controller)
	b.attachments = cache.NewIndexer(cache.MetaNamespaceKeyFunc, attachmentIndexers)
	b.drivers = storagelisters.NewCSIDriverLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil))
	core := factory.Core().V1()
	b.stores = map[string]cache.Indexer{"node": core.Nodes().Informer().GetIndexer(), "pod": core.Pods().Informer().GetIndexer(),
		"claim": core.PersistentVolumeClaims().Informer().GetIndexer(), "volume": core.PersistentVolumes().Informer().GetIndexer()}
	source := corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}
	b.show("volume", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "data", UID: "c1"}, PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &source}}})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		VolumesAttached: []corev1.AttachedVolume{{Name: b.volume}}}}
	if inUse {
		node.Status.VolumesInUse = []corev1.UniqueVolumeName{b.volume}
	}
	_, err = api.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	b.must(err)
	name := "pv1"
	a, err := api.StorageV1().VolumeAttachments().Create(t.Context(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: csiname.Attachment("h", "d", "n1"), Finalizers: []string{"example.com/attacher"}},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name}}}, metav1.CreateOptions{})
	b.must(err)
	a.Status.Attached = true
	a, err = api.StorageV1().VolumeAttachments().UpdateStatus(t.Context(), a, metav1.UpdateOptions{})
	b.must(err)
	b.must(b.attachments.Add(a))
	return b
}

func (b *byHand) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *byHand) show(kind string, obj runtime.Object) {
	b.t.Helper()
	b.must(b.stores[kind].Add(obj))
}

// node is the node as it is in the API.
func (b *byHand) node() *corev1.Node {
	b.t.Helper()
	n, err := b.api.CoreV1().Nodes().Get(b.t.Context(), "n1", metav1.GetOptions{})
	b.must(err)
	return n
}

// step has the controller look at the node, and returns after what time it wants to again.
func (b *byHand) step() time.Duration {
	b.t.Helper()
	err := b.sync(b.t.Context(), cache.ObjectName{Name: "n1"})
	var again *engine.Retry
	if errors.As(err, &again) {
		return again.After
	}
	b.must(err)
	return 0
}

// isDeleted says whether the attachment is being deleted.
func (b *byHand) isDeleted() bool {
	b.t.Helper()
	a, err := b.api.StorageV1().VolumeAttachments().Get(b.t.Context(), csiname.Attachment("h", "d", "n1"), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true
	}
	b.must(err)
	return a.DeletionTimestamp != nil
}

// The controller may not see yet that it has told the node that the volume is attached: it is not detached before it has told the node
// that it is not.
func TestNodeIsToldBeforeADetach(t *testing.T) {
	b := attached(t, false)
	old := b.node()
	old.Status.VolumesAttached = nil
	b.show("node", old)
	b.step()
	if b.isDeleted() {
		t.Fatal("detached while the node's list has the volume")
	}
	b.show("node", b.node())
	b.step()
	if list := b.node().Status.VolumesAttached; len(list) > 0 || !b.isDeleted() {
		t.Errorf("detached: %v; the node's list has %v", b.isDeleted(), list)
	}
}

// An attachment that was deleted is not there for a Pod that comes before this is seen.
func TestAttachmentThatEndsIsNotUsed(t *testing.T) {
	b := attached(t, false)
	b.show("node", b.node())
	b.step()
	if !b.isDeleted() {
		t.Fatal("not detached")
	}
	b.show("node", b.node())
	b.show("claim", &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "c1"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv1"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}})
	b.show("pod", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1", Volumes: []corev1.Volume{{
		Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}})
	b.step()
	if list := b.node().Status.VolumesAttached; len(list) > 0 {
		t.Errorf("the node is told that %v is attached, which is being detached", list)
	}
	// Another attachment of the name is one to use.
	obj, _, err := b.attachments.GetByKey(csiname.Attachment("h", "d", "n1"))
	b.must(err)
	next := obj.(*storagev1.VolumeAttachment).DeepCopy()
	next.UID = "another"
	b.must(b.attachments.Update(next))
	b.attachmentChanged(next)
	b.step()
	if list := b.node().Status.VolumesAttached; len(list) != 1 {
		t.Errorf("the node is told that %v is attached", list)
	}
	if len(b.ending) > 0 {
		t.Errorf("%v is remembered", b.ending)
	}
}

// A node that is ready keeps what it has in use, however long.
func TestReadyNodeKeepsVolumes(t *testing.T) {
	b := attached(t, true)
	b.show("node", b.node())
	if again := b.step(); again != 0 || b.isDeleted() {
		t.Fatalf("a node that is ready: detached %v, again in %s", b.isDeleted(), again)
	}
	b.now.SetTime(b.now.Now().Add(time.Hour))
	if b.step(); b.isDeleted() {
		t.Fatal("detached from a node that is ready and uses it")
	}
}

// A node that is not ready keeps what it has in use for six minutes; then it is detached all the same.
func TestSilentNodeLosesVolumes(t *testing.T) {
	b := attached(t, true)
	silent, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}})
	b.must(err)
	_, err = b.api.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, silent, metav1.PatchOptions{}, "status")
	b.must(err)
	b.show("node", b.node())
	if again := b.step(); again != 6*time.Minute {
		t.Errorf("looked at again in %s", again)
	}
	b.now.SetTime(b.now.Now().Add(6*time.Minute - time.Second))
	if again := b.step(); again != time.Second || b.isDeleted() {
		t.Fatalf("before its time: detached %v, again in %s", b.isDeleted(), again)
	}
	b.now.SetTime(b.now.Now().Add(time.Second))
	b.step()
	if list := b.node().Status.VolumesAttached; len(list) > 0 || !b.isDeleted() {
		t.Errorf("detached: %v; the node's list has %v", b.isDeleted(), list)
	}
}
