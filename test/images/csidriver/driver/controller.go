package driver

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"
)

// Control does what the usual sidecars of a driver's controller do, until ctx ends: it makes volumes for claims whose provisioner is
// the driver, makes them larger for claims that ask for more, which the node has to finish, and says of attachments that they are. The
// attachment's metadata names the node.
func Control(ctx context.Context, client kubernetes.Interface, driver string) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	var errs sync.Map
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	do := func(err error) {
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			errs.Store(err, true)
			cancel(err)
		}
	}
	both := func(f func(any)) cache.ResourceEventHandlerFuncs {
		return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, now any) { f(now) }}
	}
	_, err := factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(both(func(obj any) {
		do(provision(ctx, client, driver, obj.(*corev1.PersistentVolumeClaim)))
		do(resize(ctx, client, driver, obj.(*corev1.PersistentVolumeClaim)))
	}))
	if err != nil {
		return err
	}
	_, err = factory.Storage().V1().VolumeAttachments().Informer().AddEventHandler(both(func(obj any) {
		do(attach(ctx, client, driver, obj.(*storagev1.VolumeAttachment)))
	}))
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	<-ctx.Done()
	errs.Range(func(e, _ any) bool { err = e.(error); return false })
	return err
}

// provision makes the volume of a claim that asks the driver for one.
func provision(ctx context.Context, client kubernetes.Interface, driver string, claim *corev1.PersistentVolumeClaim) error {
	if claim.Annotations[volume.AnnStorageProvisioner] != driver || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	class, err := client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer && claim.Annotations[volume.AnnSelectedNode] == "" {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	_, err = client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{volume.AnnDynamicallyProvisioned: driver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode,
			StorageClassName: class.Name, PersistentVolumeReclaimPolicy: *class.ReclaimPolicy, MountOptions: class.MountOptions,
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driver, VolumeHandle: "handle-of-" + name, VolumeAttributes: map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": "test"}}},
		},
	}, metav1.CreateOptions{})
	return err
}

// resize makes the volume of a claim that asks for more as large, and leaves its file system to the node.
func resize(ctx context.Context, client kubernetes.Interface, driver string, claim *corev1.PersistentVolumeClaim) error {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if claim.Annotations[volume.AnnStorageProvisioner] != driver || claim.Status.Phase != corev1.ClaimBound ||
		wanted.Cmp(*claim.Status.Capacity.Storage()) <= 0 || claim.Status.AllocatedResources != nil {
		return nil
	}
	v, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	v.Spec.Capacity[corev1.ResourceStorage] = wanted
	if _, err := client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
		return err
	}
	claim = claim.DeepCopy()
	claim.Status.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: wanted}
	claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
	claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	_, err = client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}

func attach(ctx context.Context, client kubernetes.Interface, driver string, a *storagev1.VolumeAttachment) error {
	if a.Spec.Attacher != driver || a.Status.Attached {
		return nil
	}
	a = a.DeepCopy()
	a.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"attached-to": a.Spec.NodeName}}
	_, err := client.StorageV1().VolumeAttachments().UpdateStatus(ctx, a, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("attach %s: %w", a.Name, err)
	}
	return nil
}
