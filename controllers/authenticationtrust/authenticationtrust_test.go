package authenticationtrust_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/authenticationtrust"
)

// renewable is an authority that another takes the place of.
type renewable struct {
	dynamiccertificates.CAContentProvider
	now       atomic.Pointer[servertest.Authority]
	listeners []dynamiccertificates.Listener
}

func (r *renewable) CurrentCABundleContent() []byte { return r.now.Load().CurrentCABundleContent() }

func (r *renewable) AddListener(l dynamiccertificates.Listener) { r.listeners = append(r.listeners, l) }

// TestPublished: the config map tells whom the server believes, and what other servers have put there; what is done to it does not last.
func TestPublished(t *testing.T) {
	s := servertest.Start(t, nil)
	maps := s.Client(t).CoreV1().ConfigMaps(metav1.NamespaceSystem)
	if _, err := s.Client(t).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	users, other, next := servertest.NewAuthority(t), servertest.NewAuthority(t), servertest.NewAuthority(t)
	first := servertest.NewAuthority(t)
	front := &renewable{}
	front.now.Store(first)
	c, err := authenticationtrust.New(authenticationtrust.Config{Client: s.Client(t), ClientCA: users, FrontProxyCA: front, FrontProxyName: "front-proxy-client"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	text := func(a *servertest.Authority) string { return string(a.CurrentCABundleContent()) }
	want := map[string]string{
		"client-ca-file": text(users), "requestheader-client-ca-file": text(first), "requestheader-allowed-names": `["front-proxy-client"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`,
		"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	is := func(m *corev1.ConfigMap) bool {
		for k, v := range want {
			if m == nil || m.Data[k] != v {
				return false
			}
		}
		return len(m.Data) == len(want)
	}
	old := await(t, s, is)
	// Another server's, and something that is nobody's.
	changed := old.DeepCopy()
	changed.Data["requestheader-client-ca-file"] = text(other) + "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"
	changed.Data["requestheader-allowed-names"] = `["other"]`
	changed.Data["requestheader-username-headers"] = "["
	changed.Data["more"] = "of it"
	if _, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want["requestheader-client-ca-file"] = text(other) + text(first)
	want["requestheader-allowed-names"] = `["other","front-proxy-client"]`
	await(t, s, is)
	want["requestheader-client-ca-file"] += text(next)
	front.now.Store(next)
	for _, l := range front.listeners {
		l.Enqueue()
	}
	await(t, s, is)
	if err := maps.Delete(t.Context(), authenticationtrust.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want["requestheader-client-ca-file"], want["requestheader-allowed-names"] = text(next), `["front-proxy-client"]`
	await(t, s, is)
}

// await watches the config map until it is as is says.
func await(t *testing.T, s *servertest.Server, is func(*corev1.ConfigMap) bool) *corev1.ConfigMap {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := s.Client(t).CoreV1().ConfigMaps(metav1.NamespaceSystem).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + authenticationtrust.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last *corev1.ConfigMap
	for e := range w.ResultChan() {
		m, ok := e.Object.(*corev1.ConfigMap)
		if ok && e.Type != "DELETED" && is(m) {
			return m
		}
		last = m
	}
	t.Fatalf("the config map is %v", last)
	return nil
}
