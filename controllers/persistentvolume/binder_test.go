package persistentvolume_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/persistentvolume"
	"github.com/peapod/peapod/internal/storageclass"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

// world is a controller with claims and volumes.
type world struct {
	*controltest.World
	t *testing.T
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{controltest.Start(t, persistentvolume.New), t}
	w.Watch(t, w.Informers.Core().V1().PersistentVolumes().Informer())
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	return w
}

func storageOf(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

func (w *world) volume(name, size string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	w.t.Helper()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: storageOf(size), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}}}}
	if change != nil {
		change(v)
	}
	v, err := w.Client.CoreV1().PersistentVolumes().Create(w.t.Context(), v, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) claim(name, size string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: ptr.To(""), Resources: corev1.VolumeResourceRequirements{Requests: storageOf(size)}}}
	if change != nil {
		change(c)
	}
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(w.t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) class(name, provisioner string, mode storagev1.VolumeBindingMode, annotations map[string]string) {
	w.t.Helper()
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Provisioner: provisioner, VolumeBindingMode: &mode}
	if _, err := w.Client.StorageV1().StorageClasses().Create(w.t.Context(), c, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// bound waits until the claim is bound on both sides and returns its volume's name.
func (w *world) bound(name string) string {
	w.t.Helper()
	var volume string
	w.Await(w.t, name+" to be bound", func() bool {
		c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil || c.Status.Phase != corev1.ClaimBound {
			return false
		}
		volume = c.Spec.VolumeName
		v, err := w.Client.CoreV1().PersistentVolumes().Get(w.t.Context(), volume, metav1.GetOptions{})
		return err == nil && v.Status.Phase == corev1.VolumeBound && v.Spec.ClaimRef.UID == c.UID
	})
	return volume
}

func (w *world) claimPhase(name string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	var c *corev1.PersistentVolumeClaim
	w.Await(w.t, name+" to be "+string(phase), func() (ok bool) {
		var err error
		c, err = w.Client.CoreV1().PersistentVolumeClaims(ns).Get(w.t.Context(), name, metav1.GetOptions{})
		return err == nil && c.Status.Phase == phase
	})
	return c
}

func (w *world) volumePhase(name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	w.t.Helper()
	var v *corev1.PersistentVolume
	w.Await(w.t, name+" to be "+string(phase), func() (ok bool) {
		var err error
		v, err = w.Client.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
		return err == nil && v.Status.Phase == phase
	})
	return v
}

func (w *world) patchVolume(name, body string) {
	w.t.Helper()
	if _, err := w.Client.CoreV1().PersistentVolumes().Patch(w.t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deleteClaim(name string) {
	w.t.Helper()
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// says fails the test unless the object's event of the reason contains text.
func (w *world) says(object, reason, text string) {
	w.t.Helper()
	w.Event(w.t, object, reason, text)
}

func TestTheSmallestVolumeThatFitsIsBound(t *testing.T) {
	w := start(t)
	w.volume("small", "1Gi", nil)
	w.volume("big", "10Gi", nil)
	w.volume("middle", "5Gi", nil)
	w.volume("many-modes", "3Gi", func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
	})
	w.volume("block", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	w.volume("other-class", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "other" })
	for _, name := range []string{"small", "big", "middle", "many-modes", "block", "other-class"} {
		w.volumePhase(name, corev1.VolumeAvailable)
	}
	w.claim("data", "2Gi", nil)
	if got := w.bound("data"); got != "middle" {
		t.Errorf("bound to %s, want middle: the smallest of those with the fewest access modes", got)
	}
	c := w.claimPhase("data", corev1.ClaimBound)
	if c.Annotations[storage.AnnBindCompleted] != "yes" || c.Annotations[storage.AnnBoundByController] != "yes" {
		t.Errorf("annotations are %v", c.Annotations)
	}
	if q := c.Status.Capacity[corev1.ResourceStorage]; q.String() != "5Gi" || len(c.Status.AccessModes) != 1 || c.Status.AccessModes[0] != corev1.ReadWriteOnce {
		t.Errorf("status is %+v", c.Status)
	}
	v := w.volumePhase("middle", corev1.VolumeBound)
	if v.Annotations[storage.AnnBoundByController] != "yes" || v.Spec.ClaimRef.Kind != "PersistentVolumeClaim" || v.Spec.ClaimRef.APIVersion != "v1" {
		t.Errorf("volume names %+v, annotations %v", v.Spec.ClaimRef, v.Annotations)
	}
	w.claim("shared", "2Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	if got := w.bound("shared"); got != "many-modes" {
		t.Errorf("bound to %s, want many-modes", got)
	}
	w.claim("none", "20Gi", nil)
	w.says("none", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	w.volume("huge", "30Gi", nil) // its event finds the claim that waits
	if got := w.bound("none"); got != "huge" {
		t.Errorf("bound to %s, want huge", got)
	}
}

func TestASelectorChooses(t *testing.T) {
	w := start(t)
	w.volume("plain", "1Gi", nil)
	w.volume("fast", "9Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"disk": "ssd"} })
	w.volumePhase("plain", corev1.VolumeAvailable)
	w.claim("data", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
	})
	if got := w.bound("data"); got != "fast" {
		t.Errorf("bound to %s, want fast", got)
	}
}

func TestEachVolumeIsForOneClaim(t *testing.T) {
	w := start(t)
	const n = 20
	name := func(kind string, i int) string { return kind + "-" + string(rune('a'+i)) }
	for i := range n {
		w.claim(name("c", i), "1Gi", nil)
	}
	for i := range n {
		w.volume(name("v", i), "1Gi", nil)
	}
	seen := map[string]bool{}
	for i := range n {
		v := w.bound(name("c", i))
		if seen[v] {
			t.Errorf("volume %s is bound twice", v)
		}
		seen[v] = true
	}
}

func TestTheUserBindsBeforehand(t *testing.T) {
	w := start(t)
	w.claim("asks", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "asked" })
	w.claimPhase("asks", corev1.ClaimPending)
	w.volume("asked", "2Gi", nil)
	w.bound("asks")
	if c := w.claimPhase("asks", corev1.ClaimBound); metav1.HasAnnotation(c.ObjectMeta, storage.AnnBoundByController) {
		t.Error("the claim says that the controller chose its volume")
	}
	w.volume("reserved", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "late"}
	})
	w.volumePhase("reserved", corev1.VolumeAvailable)
	w.claim("other", "1Gi", nil)
	w.says("other", "FailedBinding", "no persistent volumes available")
	w.claim("late", "1Gi", nil)
	if got := w.bound("late"); got != "reserved" {
		t.Errorf("bound to %s, want reserved", got)
	}
	w.claim("thief", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "reserved" })
	w.says("thief", "FailedBinding", `volume "reserved" already bound to a different claim.`)
	w.volume("tiny", "1Mi", nil)
	w.volumePhase("tiny", corev1.VolumeAvailable)
	w.claim("greedy", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "tiny" })
	w.says("greedy", "VolumeMismatch", `Cannot bind to requested volume "tiny": requested PV is too small`)
	w.volume("raw", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "other", UID: w.claimPhase("other", corev1.ClaimPending).UID}
	})
	w.says("raw", "VolumeMismatch", `Cannot bind PersistentVolume to requested PersistentVolumeClaim "other" due to incompatible volumeMode.`)
}

func TestWhatBecomesOfAVolumeWhoseClaimIsGone(t *testing.T) {
	w := start(t)
	policy := func(p corev1.PersistentVolumeReclaimPolicy, provisioner string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = p
			if provisioner != "" {
				v.Annotations = map[string]string{storage.AnnDynamicallyProvisioned: provisioner}
			}
		}
	}
	at := func(source corev1.PersistentVolumeSource, change func(*corev1.PersistentVolume)) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			change(v)
			v.Spec.PersistentVolumeSource = source
		}
	}
	dir := func(path string) corev1.PersistentVolumeSource {
		return corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}
	}
	remote := corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas", Path: "/x"}}
	const nobody = `error getting deleter volume plugin for volume "orphaned": no deletable volume plugin matched`
	for _, c := range []struct {
		name    string
		policy  func(*corev1.PersistentVolume)
		phase   corev1.PersistentVolumePhase
		reason  string
		message string
	}{
		{"kept", policy(corev1.PersistentVolumeReclaimRetain, ""), corev1.VolumeReleased, "", ""},
		{"removed", policy(corev1.PersistentVolumeReclaimDelete, "example.com/disks"), corev1.VolumeReleased, "", ""},
		{"recycled", at(remote, policy(corev1.PersistentVolumeReclaimRecycle, "")), corev1.VolumeFailed, "VolumeFailedRecycle", "No recycler plugin found for the volume!"},
		{"orphaned", at(remote, policy(corev1.PersistentVolumeReclaimDelete, "")), corev1.VolumeFailed, "VolumeFailedDelete", nobody},
		{"precious", at(dir("/srv/x"), policy(corev1.PersistentVolumeReclaimDelete, "")), corev1.VolumeFailed, "VolumeFailedDelete",
			"host_path deleter only supports /tmp/.+ but received provided /srv/x"},
	} {
		w.volume(c.name, "1Gi", c.policy)
		w.claim(c.name, "1Gi", func(claim *corev1.PersistentVolumeClaim) { claim.Spec.VolumeName = c.name })
		w.bound(c.name)
		w.deleteClaim(c.name)
		v := w.volumePhase(c.name, c.phase)
		if c.reason == "" {
			continue
		}
		if m := w.Event(t, c.name, c.reason, c.message); m != v.Status.Message || m != c.message {
			t.Errorf("%s: event says %q, status %q", c.name, m, v.Status.Message)
		}
	}
	// A claim of the same name is another one, and gets nothing of what the first left behind.
	w.claim("kept", "1Gi", nil)
	w.says("kept", "FailedBinding", "no persistent volumes available")
	// Whoever has saved the data frees the volume.
	w.patchVolume("kept", `{"spec":{"claimRef":null}}`)
	if got := w.bound("kept"); got != "kept" {
		t.Errorf("bound to %s, want kept", got)
	}
}

func TestALostVolume(t *testing.T) {
	w := start(t)
	w.volume("gone", "1Gi", nil)
	w.claim("data", "1Gi", nil)
	w.bound("data")
	if err := w.Client.CoreV1().PersistentVolumes().Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c := w.claimPhase("data", corev1.ClaimLost)
	w.says("data", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	if c.Status.Capacity != nil || c.Status.AccessModes != nil {
		t.Errorf("a lost claim still has %+v", c.Status)
	}
	// It comes back, say from a backup, and is the claim's again.
	w.volume("gone", "1Gi", nil)
	w.bound("data")

	w.volume("shared", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "first"}
	})
	w.claim("first", "1Gi", nil)
	w.bound("first")
	w.claim("second", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Annotations = "shared", map[string]string{storage.AnnBindCompleted: "yes"}
	})
	w.says("second", "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	w.claimPhase("second", corev1.ClaimLost)
}

func TestClassesWithProvisioners(t *testing.T) {
	w := start(t)
	of := func(class string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }
	}
	w.claim("early", "1Gi", of("disks"))
	w.says("early", "ProvisioningFailed", `storageclass.storage.k8s.io "disks" not found`)
	w.class("disks", "example.com/disks", storagev1.VolumeBindingImmediate, nil)
	w.says("early", "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner 'example.com/disks'")
	c := w.claimPhase("early", corev1.ClaimPending)
	if c.Annotations[storage.AnnStorageProvisioner] != "example.com/disks" || c.Annotations[storage.AnnBetaStorageProvisioner] != "example.com/disks" {
		t.Errorf("annotations are %v", c.Annotations)
	}
	// What the provisioner makes is bound, whatever else would fit.
	w.volume("pvc-"+string(c.UID), "1Gi", func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{storage.AnnDynamicallyProvisioned: "example.com/disks"}
		v.Spec.StorageClassName, v.Spec.PersistentVolumeReclaimPolicy = "disks", corev1.PersistentVolumeReclaimDelete
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: "early", UID: c.UID}
	})
	if got := w.bound("early"); got != "pvc-"+string(c.UID) {
		t.Errorf("bound to %s", got)
	}
	w.class("none", storage.NotSupportedProvisioner, storagev1.VolumeBindingImmediate, nil)
	w.claim("static", "1Gi", of("none"))
	w.says("static", "ProvisioningFailed", "no volume plugin matched name: kubernetes.io/no-provisioner")
}

func TestTheFirstConsumerIsWaitedFor(t *testing.T) {
	w := start(t)
	w.class("late", "example.com/disks", storagev1.VolumeBindingWaitForFirstConsumer, nil)
	w.volume("free", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "late" })
	w.volumePhase("free", corev1.VolumeAvailable)
	w.claim("data", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("late") })
	w.says("data", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	if c := w.claimPhase("data", corev1.ClaimPending); c.Annotations[storage.AnnStorageProvisioner] != "" || c.Spec.VolumeName != "" {
		t.Errorf("the claim did not wait: %+v", c)
	}
	patch := `{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"n1"}}}`
	if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), "data", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.says("data", "ExternalProvisioning", "example.com/disks")
	// The scheduler's choice of a volume that is there counts too.
	w.claim("chosen", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("late") })
	w.says("chosen", "WaitForFirstConsumer", "waiting for first consumer")
	w.patchVolume("free", `{"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"claimRef":{"namespace":"default","name":"chosen","uid":"`+
		string(w.claimPhase("chosen", corev1.ClaimPending).UID)+`"}}}`)
	if got := w.bound("chosen"); got != "free" {
		t.Errorf("bound to %s, want free", got)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: controltest.Template(nil).Spec}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "pods"}}}}
	if _, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Await(t, "the Pod to be seen", func() bool {
		_, err := w.Informers.Core().V1().Pods().Lister().Pods(ns).Get("web")
		return err == nil
	})
	w.claim("pods", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("late") })
	w.says("pods", "WaitForPodScheduled", "waiting for pod web to be scheduled")
}

func TestADefaultClassIsGivenAfterwards(t *testing.T) {
	w := start(t)
	w.claim("old", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil })
	w.claim("wants-none", "1Gi", nil)
	w.says("old", "FailedBinding", "no storage class is set")
	w.class("disks", "example.com/disks", storagev1.VolumeBindingImmediate, map[string]string{storageclass.DefaultAnnotation: "true"})
	w.says("old", "ExternalProvisioning", "example.com/disks")
	if c := w.claimPhase("old", corev1.ClaimPending); ptr.Deref(c.Spec.StorageClassName, "") != "disks" {
		t.Errorf("class is %v", c.Spec.StorageClassName)
	}
	if c := w.claimPhase("wants-none", corev1.ClaimPending); *c.Spec.StorageClassName != "" {
		t.Errorf("a claim that wants no class was given %q", *c.Spec.StorageClassName)
	}
}

// A volume that lost the race for its claim is free again, or goes if it was made for the claim.
func TestTheClaimIsBoundElsewhere(t *testing.T) {
	w := start(t)
	w.volume("has", "1Gi", nil)
	c := w.claim("data", "1Gi", nil)
	w.bound("data")
	ref := &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: ns, Name: "data", UID: c.UID}
	w.volume("reserved", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = ref })
	w.volume("raced", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef, v.Annotations = ref, map[string]string{storage.AnnBoundByController: "yes"}
	})
	w.volume("made", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef, v.Annotations = ref, map[string]string{storage.AnnDynamicallyProvisioned: "example.com/disks"}
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	})
	if v := w.volumePhase("reserved", corev1.VolumeAvailable); v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != "" || v.Spec.ClaimRef.Name != "data" {
		t.Errorf("the user's reservation became %+v", v.Spec.ClaimRef)
	}
	if v := w.volumePhase("raced", corev1.VolumeAvailable); v.Spec.ClaimRef != nil || metav1.HasAnnotation(v.ObjectMeta, storage.AnnBoundByController) {
		t.Errorf("the controller's own binding is left: %+v", v.Spec.ClaimRef)
	}
	w.volumePhase("made", corev1.VolumeReleased)
	if _, err := w.Client.CoreV1().PersistentVolumes().Get(t.Context(), "made", metav1.GetOptions{}); apierrors.IsNotFound(err) {
		t.Error("the controller deleted a volume: that is for its provisioner")
	}
}
