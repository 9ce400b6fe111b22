package admission_test

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestStorage runs its parts on one server.
func TestStorage(t *testing.T) {
	c := start(t)
	t.Run("default class", func(t *testing.T) { defaultClass(t, c) })
	t.Run("protection", func(t *testing.T) { storageProtection(t, c) })
	t.Run("resize", func(t *testing.T) { claimResize(t, c) })
}

func newClaim(name string, class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
}

func (c *cluster) storageClass(t *testing.T, name string, change func(*storagev1.StorageClass)) {
	t.Helper()
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "example.com/disks"}
	change(class)
	_, err := c.system.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	fine(t, err)
}

func defaultClass(t *testing.T, c *cluster) {
	claims := c.system.CoreV1().PersistentVolumeClaims("default")
	none, err := claims.Create(ctx, newClaim("before", nil), metav1.CreateOptions{})
	fine(t, err)
	if none.Spec.StorageClassName != nil {
		t.Errorf("class is %q and there is no default", *none.Spec.StorageClassName)
	}
	c.storageClass(t, "disks", func(s *storagev1.StorageClass) {
		s.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	})
	// An informer tells the plugin of the class: ask until it has.
	settle(t, func() error {
		claim, err := claims.Create(ctx, newClaim("probe", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && claim.Spec.StorageClassName == nil {
			err = errors.New("the default class is not given")
		}
		return err
	})
	given, err := claims.Create(ctx, newClaim("given", nil), metav1.CreateOptions{})
	fine(t, err)
	if given.Spec.StorageClassName == nil || *given.Spec.StorageClassName != "disks" {
		t.Errorf("class is %v, want the default", given.Spec.StorageClassName)
	}
	own, err := claims.Create(ctx, newClaim("own", ptr("")), metav1.CreateOptions{})
	fine(t, err)
	if *own.Spec.StorageClassName != "" {
		t.Errorf("who wants no class was given %q", *own.Spec.StorageClassName)
	}
}

func storageProtection(t *testing.T, c *cluster) {
	claim, err := c.system.CoreV1().PersistentVolumeClaims("default").Create(ctx, newClaim("protected", ptr("")), metav1.CreateOptions{})
	fine(t, err)
	if !slices.Equal(claim.Finalizers, []string{"kubernetes.io/pvc-protection"}) {
		t.Errorf("finalizers of a claim are %v", claim.Finalizers)
	}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "protected", Finalizers: []string{"example.com/own", "kubernetes.io/pv-protection"}},
		Spec: corev1.PersistentVolumeSpec{AccessModes: claim.Spec.AccessModes, Capacity: claim.Spec.Resources.Requests,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}}}
	volume, err = c.system.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	fine(t, err)
	if !slices.Equal(volume.Finalizers, []string{"example.com/own", "kubernetes.io/pv-protection"}) {
		t.Errorf("finalizers of a volume that had them are %v", volume.Finalizers)
	}
	class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "protected"}, DriverName: "disk.example.com",
		Parameters: map[string]string{"iops": "5000"}}
	class, err = c.system.StorageV1().VolumeAttributesClasses().Create(ctx, class, metav1.CreateOptions{})
	fine(t, err)
	if !slices.Equal(class.Finalizers, []string{"kubernetes.io/vac-protection"}) {
		t.Errorf("finalizers of a class of volume attributes are %v", class.Finalizers)
	}
}

func claimResize(t *testing.T, c *cluster) {
	claims := c.system.CoreV1().PersistentVolumeClaims("default")
	c.storageClass(t, "grows", func(s *storagev1.StorageClass) { s.AllowVolumeExpansion = ptr(true) })
	c.storageClass(t, "fixed", func(s *storagev1.StorageClass) {})
	grow := func(name string) error {
		body := []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
		_, err := claims.Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	for _, class := range []string{"grows", "fixed", ""} {
		claim, err := claims.Create(ctx, newClaim("size-"+class+"x", &class), metav1.CreateOptions{})
		fine(t, err)
		claim.Status.Phase = corev1.ClaimBound
		_, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		fine(t, err)
	}
	settle(t, func() error { return grow("size-growsx") })
	const no = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	refused(t, grow("size-fixedx"), no)
	refused(t, grow("size-x"), no)
}
