package admission_test

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/internal/localpath"
)

// localVolume makes a volume as the built-in provisioner does.
func (c *cluster) localVolume(t *testing.T, name, node string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	t.Helper()
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{localpath.Finalizer}, Labels: map[string]string{localpath.NodeLabel: node},
			Annotations: map[string]string{storage.AnnDynamicallyProvisioned: localpath.Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: newClaim("", nil).Spec.Resources.Requests, AccessModes: newClaim("", nil).Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/srv/" + name}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}}
	if change != nil {
		change(v)
	}
	v, err := c.system.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestANodeAndItsVolumes has a node that was broken into try what else it could do with the rights that local volumes
// take: read, take over, free or destroy volumes of others, or point root at other directories.
func TestANodeAndItsVolumes(t *testing.T) {
	c := start(t)
	c.localVolume(t, "mine", "n1", nil)
	c.localVolume(t, "theirs", "n2", nil)
	c.localVolume(t, "foreign", "n1", func(v *corev1.PersistentVolume) {
		v.Annotations[storage.AnnDynamicallyProvisioned] = "example.com/disks"
	})
	volumes := c.node(t, "n1").CoreV1().PersistentVolumes()
	list := func(selector string) error {
		_, err := volumes.List(ctx, metav1.ListOptions{LabelSelector: selector})
		return err
	}
	got, err := volumes.List(ctx, metav1.ListOptions{LabelSelector: "peapod.io/node=n1"})
	if err != nil || len(got.Items) != 2 {
		t.Errorf("a node lists %d volumes of its own, %v", len(got.Items), err)
	}
	w, err := volumes.Watch(ctx, metav1.ListOptions{LabelSelector: "peapod.io/node=n1"})
	fine(t, err)
	if err == nil {
		w.Stop()
	}
	for _, selector := range []string{"", "peapod.io/node", "peapod.io/node=n2", "peapod.io/node!=n1", "peapod.io/node in (n1,n2)", "peapod.io/node notin (n1)", "other=n1"} {
		refused(t, list(selector), "persistentvolumes")
	}
	_, err = volumes.Get(ctx, "theirs", metav1.GetOptions{})
	refused(t, err, "no relationship found")

	patch := func(name, body string) error {
		_, err := volumes.Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	const note = `{"metadata":{"annotations":{"peapod.io/local-path-made":"true"}}}`
	const free = `{"metadata":{"finalizers":["kubernetes.io/pv-protection"]}}`
	refused(t, patch("theirs", note), "no relationship found between node 'n1' and this object")
	refused(t, patch("foreign", note), "no relationship found")
	for _, body := range []string{
		`{"metadata":{"labels":{"peapod.io/node":"n2"}}}`,
		`{"metadata":{"annotations":{"example.com/a":"b"}}}`,
		`{"metadata":{"annotations":{"peapod.io/local-path-made":"false"}}}`,
		`{"metadata":{"annotations":{"pv.kubernetes.io/provisioned-by":null}}}`,
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`,
		`{"metadata":{"finalizers":[]}}`, free,
		`{"metadata":{"finalizers":["kubernetes.io/pv-protection","external-provisioner.volume.kubernetes.io/finalizer","example.com/mine"]}}`,
		`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`,
		`{"spec":{"capacity":{"storage":"2Gi"}}}`,
		`{"spec":{"claimRef":{"kind":"PersistentVolumeClaim","namespace":"kube-system","name":"secrets"}}}`,
	} {
		refused(t, patch("mine", body), `node "n1" can only set the annotation peapod.io/local-path-made`)
	}
	fine(t, patch("mine", note))
	_, err = volumes.Create(ctx, c.localVolume(t, "model", "n1", nil), metav1.CreateOptions{})
	refused(t, err, "persistentvolumes")
	refused(t, volumes.Delete(ctx, "mine", metav1.DeleteOptions{}), "persistentvolumes")
	refused(t, volumes.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "peapod.io/node=n1"}), "persistentvolumes")
	_, err = volumes.Patch(ctx, "mine", types.MergePatchType, []byte(`{"status":{"phase":"Released"}}`), metav1.PatchOptions{}, "status")
	refused(t, err, "persistentvolumes")
	_, err = volumes.Patch(ctx, "new", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"new"},`+
		`"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/etc"}}}`), metav1.PatchOptions{FieldManager: "x", Force: ptr(true)})
	refused(t, err, "persistentvolumes")

	// Its claim has it, though it is being deleted: the node does not let it go before.
	phase := func(p corev1.PersistentVolumePhase) {
		t.Helper()
		_, err := c.system.CoreV1().PersistentVolumes().Patch(ctx, "mine", types.MergePatchType, []byte(`{"status":{"phase":"`+string(p)+`"}}`), metav1.PatchOptions{}, "status")
		fine(t, err)
	}
	phase(corev1.VolumeBound)
	fine(t, c.system.CoreV1().PersistentVolumes().Delete(ctx, "mine", metav1.DeleteOptions{}))
	refused(t, patch("mine", free), "once its claim is gone")
	phase(corev1.VolumeReleased)
	refused(t, patch("mine", `{"metadata":{"finalizers":null}}`), "once its claim is gone") // the other is not the node's
	fine(t, patch("mine", free))
	settle(t, func() error {
		v, err := c.system.CoreV1().PersistentVolumes().Get(ctx, "mine", metav1.GetOptions{})
		if err == nil && len(v.Finalizers) != 1 {
			err = errors.New("the finalizer is still there")
		}
		return err
	})
}
