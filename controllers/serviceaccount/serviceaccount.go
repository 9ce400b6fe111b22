// Package serviceaccount keeps a service account named "default" in every namespace.
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of
// the same name fits.
const Name = "service-account-controller"

// account is the one that Pods get which name none.
const account = "default"

// New returns the controller. A sync costs nothing where the account exists.
func New(d engine.Deps) (engine.Runner, error) {
	namespaces := d.Informers.Core().V1().Namespaces()
	accounts := d.Informers.Core().V1().ServiceAccounts()
	loop := &engine.Loop{Name: Name, Workers: 2}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		ns, err := namespaces.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) || err == nil && ns.Status.Phase == corev1.NamespaceTerminating {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read namespace %s: %w", key.Name, err)
		}
		if _, err := accounts.Lister().ServiceAccounts(key.Name).Get(account); !apierrors.IsNotFound(err) {
			return err
		}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: key.Name}}
		_, err = d.Client.CoreV1().ServiceAccounts(key.Name).Create(ctx, sa, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create service account %s/%s: %w", key.Name, account, err)
	}
	nsSynced, err := namespaces.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	saSynced, err := accounts.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: engine.Namespace(loop)})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{nsSynced.HasSyncedChecker(), saSynced.HasSyncedChecker()}
	return loop, nil
}
