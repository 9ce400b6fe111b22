// Package rootca keeps the config map kube-root-ca.crt in every namespace: the certificate authority with which Pods
// verify the API server (KEP-1205).
package rootca

import (
	"context"
	"fmt"
	"maps"
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

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of
// the same name fits.
const Name = "root-ca-cert-publisher"

const (
	configMap = "kube-root-ca.crt"
	file      = "ca.crt"
	// The annotation is upstream's, word for word: tools look for it.
	descriptionKey = "kubernetes.io/description"
	description    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// New returns the controller. It watches the config maps of its own name only, so its memory does not grow with what
// users keep in others.
func New(d engine.Deps) (engine.Runner, error) {
	namespaces := d.Informers.Core().V1().Namespaces()
	configMaps := d.Informers.InformerFor(&rootConfigMap{}, newInformer)
	lister := corelisters.NewConfigMapLister(configMaps.GetIndexer())
	loop := &engine.Loop{Name: Name, Workers: 2}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		ns, err := namespaces.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) || err == nil && ns.Status.Phase == corev1.NamespaceTerminating {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read namespace %s: %w", key.Name, err)
		}
		return publish(ctx, d, lister, key.Name)
	}
	nsSynced, err := namespaces.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	mapSynced, err := configMaps.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, obj any) { engine.Namespace(loop)(obj) }, DeleteFunc: engine.Namespace(loop)})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{nsSynced.HasSyncedChecker(), mapSynced.HasSyncedChecker()}
	return loop, nil
}

// rootConfigMap is the key under which the factory shares the narrowed informer; a plain *corev1.ConfigMap would be
// mistaken for one of all config maps.
type rootConfigMap struct{ corev1.ConfigMap }

func newInformer(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
	return coreinformers.NewFilteredConfigMapInformer(client, metav1.NamespaceAll, resync,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, configMap).String()
		})
}

// publish makes or mends the namespace's config map.
func publish(ctx context.Context, d engine.Deps, lister corelisters.ConfigMapLister, namespace string) error {
	want := map[string]string{file: string(d.RootCA())}
	old, err := lister.ConfigMaps(namespace).Get(configMap)
	switch {
	case apierrors.IsNotFound(err):
		cm := &corev1.ConfigMap{Data: want, ObjectMeta: metav1.ObjectMeta{
			Name: configMap, Namespace: namespace, Annotations: map[string]string{descriptionKey: description}}}
		_, err := d.Client.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create config map %s/%s: %w", namespace, configMap, err)
	case err != nil:
		return fmt.Errorf("read config map %s/%s: %w", namespace, configMap, err)
	case maps.Equal(old.Data, want) && old.Annotations[descriptionKey] != "":
		return nil
	}
	cm := old.DeepCopy()
	cm.Data = want
	metav1.SetMetaDataAnnotation(&cm.ObjectMeta, descriptionKey, description)
	if _, err := d.Client.CoreV1().ConfigMaps(namespace).Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update config map %s/%s: %w", namespace, configMap, err)
	}
	return nil
}
