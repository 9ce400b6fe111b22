package daemon

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/internal/storageclass"
)

// classMade is an annotation of namespace kube-system: the cluster has been given its storage class.
const classMade = "peapod.io/storage-class"

// ensureStorageClass makes the default class of local volumes, once in a cluster's life: from then on it is the user's, to change
// or to delete. Should the server stop before it has noted that, the next start makes nothing twice.
func ensureStorageClass(ctx context.Context, client kubernetes.Interface) error {
	ns, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read namespace %s: %w", metav1.NamespaceSystem, err)
	}
	if _, made := ns.Annotations[classMade]; made {
		return nil
	}
	_, err = client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: localpath.ClassName, Annotations: map[string]string{storageclass.DefaultAnnotation: "true"}},
		Provisioner:       localpath.Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
		// Directories have no size of their own: there is nothing that growth could fail at.
		AllowVolumeExpansion: ptr.To(true),
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make storage class %s: %w", localpath.ClassName, err)
	}
	note := []byte(`{"metadata":{"annotations":{"` + classMade + `":"` + localpath.ClassName + `"}}}`)
	if _, err := client.CoreV1().Namespaces().Patch(ctx, metav1.NamespaceSystem, types.MergePatchType, note, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("note that storage class %s is made: %w", localpath.ClassName, err)
	}
	return nil
}
