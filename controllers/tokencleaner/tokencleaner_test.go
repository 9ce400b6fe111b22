package tokencleaner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/test/controltest"
)

func TestTokensGoWhenTheirTimeIsOver(t *testing.T) {
	w := controltest.Start(t, New)
	w.Watch(t, w.Informers.Core().V1().Secrets().Informer())
	if _, err := w.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	past, soon, later := time.Now().Add(-time.Hour), time.Now().Add(2*time.Second), time.Now().Add(time.Hour)
	create := func(name string, kind corev1.SecretType, namespace, expiration string) {
		t.Helper()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Type: kind, Data: map[string][]byte{}}
		if expiration != "" {
			s.Data["expiration"] = []byte(expiration)
		}
		if _, err := w.Client.CoreV1().Secrets(namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const token, system = corev1.SecretTypeBootstrapToken, metav1.NamespaceSystem
	stay := []string{"bootstrap-token-valid1", "bootstrap-token-always", "other"}
	create(stay[0], token, system, later.Format(time.RFC3339))
	create(stay[1], token, system, "")
	create(stay[2], corev1.SecretTypeOpaque, system, past.Format(time.RFC3339))
	create("bootstrap-token-faraway", token, "default", past.Format(time.RFC3339))
	gone := []string{"bootstrap-token-past00", "bootstrap-token-broken", "bootstrap-token-soon00"}
	create(gone[0], token, system, past.Format(time.RFC3339))
	create(gone[1], token, system, "tomorrow")
	create(gone[2], token, system, soon.Format(time.RFC3339))
	for _, name := range gone {
		w.Await(t, name+" is gone", func() bool {
			_, err := w.Client.CoreV1().Secrets(system).Get(t.Context(), name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
	for _, name := range stay {
		if _, err := w.Client.CoreV1().Secrets(system).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Client.CoreV1().Secrets("default").Get(t.Context(), "bootstrap-token-faraway", metav1.GetOptions{}); err != nil {
		t.Errorf("a Secret of another namespace: %v", err)
	}
}
