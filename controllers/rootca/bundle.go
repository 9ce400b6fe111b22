package rootca

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	certificatesinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// BundleName is that of the service account as which the trust bundle is published; upstream's, so that the bootstrap role
// of the same name fits.
const BundleName = "kube-apiserver-serving-clustertrustbundle-publisher"

// servingSigner stands for who signs the API server's certificates.
const (
	servingSigner = "kubernetes.io/kube-apiserver-serving"
	bundlePrefix  = "kubernetes.io:kube-apiserver-serving:"
)

// NewBundle returns the controller that keeps one ClusterTrustBundle with the certificate authority of the API server, for
// Pods that mount it by its signer (KEP-3257). Its name follows from its content, so that an old one stays until the new
// one is there.
func NewBundle(d engine.Deps) (engine.Runner, error) {
	bundles := d.Informers.InformerFor(&servingBundle{}, newBundleInformer)
	lister := certificateslisters.NewClusterTrustBundleLister(bundles.GetIndexer())
	loop := &engine.Loop{Name: BundleName}
	loop.Sync = func(ctx context.Context, _ cache.ObjectName) error { return publishBundle(ctx, d, lister) }
	// One key stands for all: what any of them is matters for the set.
	wake := func(any) { loop.Add(cache.ObjectName{Name: servingSigner}) }
	synced, err := bundles.AddEventHandler(engine.OnAny(wake))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	wake(nil)
	return loop, nil
}

// servingBundle is the key under which the factory shares the narrowed informer, as rootConfigMap is.
type servingBundle struct {
	certificatesv1.ClusterTrustBundle
}

func newBundleInformer(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
	return certificatesinformers.NewFilteredClusterTrustBundleInformer(client, resync, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.signerName", servingSigner).String()
	})
}

func publishBundle(ctx context.Context, d engine.Deps, lister certificateslisters.ClusterTrustBundleLister) error {
	text := string(d.RootCA())
	sum := sha256.Sum256([]byte(text))
	want := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: bundlePrefix + hex.EncodeToString(sum[:])[:16]},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: text},
	}
	api := d.Client.CertificatesV1().ClusterTrustBundles()
	old, err := lister.Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		if _, err := api.Create(ctx, want, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create cluster trust bundle %s: %w", want.Name, err)
		}
	case err != nil:
		return fmt.Errorf("read cluster trust bundle %s: %w", want.Name, err)
	case old.Spec.TrustBundle != text:
		mended := old.DeepCopy()
		mended.Spec.TrustBundle = text
		if _, err := api.Update(ctx, mended, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update cluster trust bundle %s: %w", want.Name, err)
		}
	}
	list, err := lister.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list cluster trust bundles: %w", err)
	}
	for _, b := range list {
		if b.Name == want.Name {
			continue
		}
		if err := api.Delete(ctx, b.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(b.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old cluster trust bundle %s: %w", b.Name, err)
		}
	}
	return nil
}
