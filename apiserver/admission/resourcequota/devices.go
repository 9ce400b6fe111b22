package resourcequota

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/api/resource/quota"
	"github.com/peapod/peapod/internal/synced"
)

// devices asks the API what claims for devices cost: only where a claim is charged in a namespace with a quota, and so that a class or a
// Pod that has just been made is known.
type devices struct{ client kubernetes.Interface }

var _ quota.Devices = devices{}

// Class implements quota.Devices.
func (d devices) Class(name string) (*resourcev1.DeviceClass, error) {
	ctx, cancel := context.WithTimeout(context.Background(), synced.Limit)
	defer cancel()
	return d.client.ResourceV1().DeviceClasses().Get(ctx, name, metav1.GetOptions{})
}

// Pod implements quota.Devices.
func (d devices) Pod(namespace, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(context.Background(), synced.Limit)
	defer cancel()
	return d.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Claims implements quota.Devices.
func (d devices) Claims(namespace string) ([]*resourcev1.ResourceClaim, error) {
	ctx, cancel := context.WithTimeout(context.Background(), synced.Limit)
	defer cancel()
	list, err := d.client.ResourceV1().ResourceClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := make([]*resourcev1.ResourceClaim, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}
