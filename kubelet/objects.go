package kubelet

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// objects reads what environments and pulls refer to: one GET when needed, so
// that a container starts with the newest, and the node holds no Secret.
type objects struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
}

func (o *objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	cm, err := o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	return cm, missing(err, "configmap", name)
}

func (o *objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	secret, err := o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	return secret, missing(err, "secret", name)
}

// RuntimeHandler looks up what a RuntimeClass stands for in the runtime (KEP-585).
func (o *objects) RuntimeHandler(ctx context.Context, class string) (string, error) {
	rc, err := o.client.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("failed to lookup RuntimeClass %s: %w", class, err)
	}
	return rc.Handler, nil
}

// missing words a NotFound as users know it from the status of Pods.
func missing(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(v1.Resource(kind), name)
	}
	return err
}

func (o *objects) Services(namespace string) ([]*v1.Service, error) {
	return o.services.Services(namespace).List(labels.Everything())
}
