package daemon

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver/admission/priority"
	"github.com/peapod/peapod/apiserver/authz/bootstrap"
)

// bootstrapObjects makes the objects that every cluster has from its first moment: the system's namespaces, priority classes and
// roles. It is repeated at each start, and writes only what is missing: a webhook that refuses everything, or whose Pods do not run yet,
// must not keep a server from starting.
func bootstrapObjects(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	if err := priority.EnsureSystemClasses(ctx, client); err != nil {
		return err
	}
	if err := ensureStorageClass(ctx, client); err != nil {
		return err
	}
	return bootstrap.Reconcile(ctx, client)
}

// served says which kinds the server stores.
func served() func(schema.GroupResource) bool {
	have := map[schema.GroupResource]bool{}
	for _, d := range api.All() {
		have[d.Resource()] = true
	}
	return func(gr schema.GroupResource) bool { return have[gr] }
}
