package localpath_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	provisioner "github.com/peapod/peapod/controllers/localpath"
	"github.com/peapod/peapod/controllers/persistentvolume"
	"github.com/peapod/peapod/controllers/volumeprotection"
	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

type world struct {
	*controltest.World
	t *testing.T
}

// start runs the provisioner with the binder and the protection of volumes, and a class.
func start(t *testing.T, change func(*storagev1.StorageClass)) *world {
	t.Helper()
	w := &world{controltest.Start(t, persistentvolume.New, provisioner.New, volumeprotection.NewVolumes), t}
	w.Watch(t, w.Informers.Core().V1().PersistentVolumes().Informer())
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: localpath.Provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	if change != nil {
		change(class)
	}
	if _, err := w.Client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) node(name string, annotations map[string]string) {
	w.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name + ".host"}, Annotations: annotations}}
	if _, err := w.Client.CoreV1().Nodes().Create(w.t.Context(), n, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func at(dir string) map[string]string { return map[string]string{localpath.DirectoryAnnotation: dir} }

// claim makes a claim whose Pod is to run on a node.
func (w *world) claim(name, node string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("local"),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	if node != "" {
		c.Annotations = map[string]string{storage.AnnSelectedNode: node}
	}
	if change != nil {
		change(c)
	}
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(w.t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// bound waits until the claim has a volume that is bound, and returns that.
func (w *world) bound(name string) *corev1.PersistentVolume {
	w.t.Helper()
	var v *corev1.PersistentVolume
	w.Await(w.t, name+" to be bound", func() bool {
		c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil || c.Status.Phase != corev1.ClaimBound {
			return false
		}
		v, err = w.Client.CoreV1().PersistentVolumes().Get(w.t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
		return err == nil && v.Status.Phase == corev1.VolumeBound
	})
	return v
}

func (w *world) deleteClaim(name string) {
	w.t.Helper()
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) says(object, reason, text string) {
	w.t.Helper()
	w.Event(w.t, object, reason, text)
}

// await waits until the volume is as said; nil: gone.
func (w *world) await(what, name string, ok func(*corev1.PersistentVolume) bool) {
	w.t.Helper()
	w.Await(w.t, what, func() bool {
		v, err := w.Client.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			v, err = nil, nil
		}
		return err == nil && ok(v)
	})
}

func gone(v *corev1.PersistentVolume) bool { return v == nil }

func held(v *corev1.PersistentVolume) bool {
	return v != nil && slices.Contains(v.Finalizers, localpath.Finalizer)
}

func TestAVolumeIsMadeOnTheChosenNode(t *testing.T) {
	w := start(t, func(s *storagev1.StorageClass) { s.MountOptions = []string{"noatime"} })
	w.node("n1", at("/srv/one"))
	w.node("n2", at("/srv/two"))
	c := w.claim("data", "n2", nil)
	v := w.bound("data")
	if v.Name != "pvc-"+string(c.UID) || v.Spec.Local == nil || v.Spec.Local.Path != "/srv/two/"+v.Name || !localpath.Ours(v, "n2") {
		t.Errorf("made %+v", v)
	}
	want := corev1.NodeSelectorRequirement{Key: "kubernetes.io/hostname", Operator: "In", Values: []string{"n2.host"}}
	if got := v.Spec.NodeAffinity.Required.NodeSelectorTerms; len(got) != 1 || got[0].MatchExpressions[0].String() != want.String() {
		t.Errorf("affinity is %v", got)
	}
	if v.Spec.StorageClassName != "local" || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || !held(v) ||
		v.Spec.Capacity.Storage().String() != "1Gi" || !slices.Equal(v.Spec.MountOptions, []string{"noatime"}) {
		t.Errorf("made %+v", v.Spec)
	}
	w.says("data", "Provisioning", `External provisioner is provisioning volume for claim "default/data"`)
	w.says("data", "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name)
}

func TestWhatCannotBeMadeIsSaid(t *testing.T) {
	w := start(t, nil)
	w.node("n1", at("/srv/one"))
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		text   string
	}{
		"shared": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		},
			"access mode ReadWriteMany is not supported"},
		"block": {func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }, "does not support block volume provisioning"},
		"selector": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, "claim Selector is not supported"},
		"copy": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "other"}
		}, "claim dataSource is not supported"},
	} {
		w.claim(name, "n1", c.change)
		w.says(name, "ProvisioningFailed", `failed to provision volume with StorageClass "local": `)
		w.says(name, "ProvisioningFailed", c.text)
	}
	list, err := w.Client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("made %d volumes, %v", len(list.Items), err)
	}
}

func TestAClassThatDoesNotWait(t *testing.T) {
	w := start(t, func(s *storagev1.StorageClass) { s.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate) })
	w.claim("data", "", nil)
	w.says("data", "ProvisioningFailed", "set volumeBindingMode of a class with provisioner peapod.io/local-path to WaitForFirstConsumer")
}

func TestTheNodeSaysLaterWhereItsVolumesAre(t *testing.T) {
	w := start(t, nil)
	w.node("n1", nil)
	w.claim("data", "n1", nil)
	w.says("data", "ProvisioningFailed", `node "n1" offers no directory for volumes`)
	patch := `{"metadata":{"annotations":{"` + localpath.DirectoryAnnotation + `":"/srv/late"}}}`
	if _, err := w.Client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if v := w.bound("data"); !strings.HasPrefix(v.Spec.Local.Path, "/srv/late/pvc-") {
		t.Errorf("path is %s", v.Spec.Local.Path)
	}
}

// The scheduler chooses again where the node that it chose is gone.
func TestTheChosenNodeIsGone(t *testing.T) {
	w := start(t, nil)
	w.claim("data", "vanished", nil)
	w.says("data", "ProvisioningFailed", `node "vanished" is gone`)
	w.Await(t, "the choice to be taken back", func() bool {
		c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
		return err == nil && c.Annotations[storage.AnnSelectedNode] == ""
	})
}

func TestAReleasedVolumeWaitsForItsNode(t *testing.T) {
	w := start(t, nil)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	w.deleteClaim("data")
	w.await("the volume to be deleted and held", name, func(v *corev1.PersistentVolume) bool {
		return v != nil && localpath.Doomed(v) && slices.Equal(v.Finalizers, []string{localpath.Finalizer})
	})
	// The node has removed the directory.
	if _, err := w.Client.CoreV1().PersistentVolumes().Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.await("the volume to be gone", name, gone)
}

func TestTheDataOfAGoneNodeAreGivenUp(t *testing.T) {
	w := start(t, nil)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	if err := w.Client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if v := w.bound("data"); v.DeletionTimestamp != nil {
		t.Error("the claim still has the volume, and the node may come back")
	}
	w.deleteClaim("data")
	w.await("the volume to be gone", name, gone)
}

// A user who deletes the volume before its claim loses no data while the claim is there.
func TestTheVolumeIsDeletedFirst(t *testing.T) {
	w := start(t, nil)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	if err := w.Client.CoreV1().PersistentVolumes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.await("the deletion to begin", name, func(v *corev1.PersistentVolume) bool { return v != nil && v.DeletionTimestamp != nil })
	if v := w.bound("data"); localpath.Doomed(v) || !held(v) {
		t.Errorf("the volume of a claim that is there is to be removed: %+v", v)
	}
	w.deleteClaim("data")
	w.await("the directory to be the node's to remove", name, func(v *corev1.PersistentVolume) bool { return held(v) && localpath.Doomed(v) })
}

func TestTheUserKeepsTheData(t *testing.T) {
	w := start(t, nil)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	policy := func(p string) {
		t.Helper()
		body := `{"spec":{"persistentVolumeReclaimPolicy":"` + p + `"}}`
		if _, err := w.Client.CoreV1().PersistentVolumes().Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	policy("Retain")
	w.await("the finalizer to go", name, func(v *corev1.PersistentVolume) bool { return v != nil && !held(v) })
	policy("Delete")
	w.await("the finalizer to come", name, held)
	policy("Retain")
	w.await("the finalizer to go", name, func(v *corev1.PersistentVolume) bool { return v != nil && !held(v) })
	w.deleteClaim("data")
	w.await("the volume to be released", name, func(v *corev1.PersistentVolume) bool {
		return v != nil && v.Status.Phase == corev1.VolumeReleased && v.DeletionTimestamp == nil
	})
	policy("Delete")
	w.await("the volume to be deleted", name, func(v *corev1.PersistentVolume) bool { return v != nil && v.DeletionTimestamp != nil })
}
