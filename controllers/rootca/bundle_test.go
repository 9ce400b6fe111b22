package rootca_test

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/rootca"
	"github.com/peapod/peapod/internal/testca"
	"github.com/peapod/peapod/test/controltest"
)

func authority(t *testing.T) string {
	t.Helper()
	return string(testca.New(t, "ca").PEM)
}

// TestBundle: there is one bundle of the signer, with the authority of now; what others make of it does not last.
func TestBundle(t *testing.T) {
	const signer, prefix = "kubernetes.io/kube-apiserver-serving", "kubernetes.io:kube-apiserver-serving:"
	now, before := authority(t), authority(t)
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		old := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: prefix + "old"},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: before}}
		if _, err := d.Client.CertificatesV1().ClusterTrustBundles().Create(t.Context(), old, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
		d.RootCA = func() []byte { return []byte(now) }
		return rootca.NewBundle(d)
	})
	w.Watch(t, w.Informers.Certificates().V1().ClusterTrustBundles().Informer())
	api := w.Client.CertificatesV1().ClusterTrustBundles()
	var last certificatesv1.ClusterTrustBundle
	good := func() bool {
		list, err := api.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.signerName=" + signer})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Spec.TrustBundle != now || !strings.HasPrefix(list.Items[0].Name, prefix) {
			return false
		}
		last = list.Items[0]
		return true
	}
	w.Await(t, "one bundle, of now", good)
	last.Spec.TrustBundle = before
	if _, err := api.Update(t.Context(), &last, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "one bundle, mended", good)
	if err := api.Delete(t.Context(), last.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "one bundle, made again", good)
}
