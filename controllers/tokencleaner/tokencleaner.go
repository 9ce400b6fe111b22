// Package tokencleaner deletes bootstrap tokens whose time is over.
package tokencleaner

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "token-cleaner"

// New returns the controller. It watches Secrets of bootstrap tokens only.
func New(d engine.Deps) (engine.Runner, error) {
	informer := d.Informers.InformerFor(&tokenSecret{}, newInformer)
	lister := corelisters.NewSecretLister(informer.GetIndexer()).Secrets(metav1.NamespaceSystem)
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		s, err := lister.Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read bootstrap token %s: %w", key.Name, err)
		}
		text := string(s.Data["expiration"])
		if text == "" {
			return nil // it has no end
		}
		// A token whose end cannot be read is not valid either, and goes at once.
		if at, err := time.Parse(time.RFC3339, text); err == nil && time.Until(at) > 0 {
			return &engine.Retry{After: time.Until(at), Why: "it is valid until then"}
		}
		err = d.Client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, s.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete bootstrap token %s: %w", s.Name, err)
		}
		return nil
	}
	synced, err := informer.AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

// tokenSecret is the key under which the factory shares the narrowed informer; a plain *corev1.Secret would be mistaken
// for one of all Secrets.
type tokenSecret struct{ corev1.Secret }

func newInformer(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
	return coreinformers.NewFilteredSecretInformer(client, metav1.NamespaceSystem, resync,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String()
		})
}
