package probe

import (
	"net/http"
	"net/http/httptest"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestHTTPHook: a hook that asks for HTTPS is asked by HTTP where that is what there is, as in Kubernetes, and then without credentials.
func TestHTTPHook(t *testing.T) {
	type asked struct {
		tls           bool
		authorization string
	}
	requests := make(chan asked, 10)
	status := http.StatusOK
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- asked{r.TLS != nil, r.Header.Get("Authorization")}
		if status == http.StatusFound {
			w.Header().Set("Location", "http://other.invalid/")
		}
		w.WriteHeader(status)
	})
	plain, encrypted := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer encrypted.Close()
	hook := func(url string, scheme v1.URIScheme) error {
		tg, port := target0(t, url)
		return (&Checker{}).Run(t.Context(), tg.pod, tg.podIP, tg.container, "", &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{
			Scheme: scheme, Path: "/", Port: port, HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: "secret"}}}})
	}
	for _, c := range []struct {
		url    string
		scheme v1.URIScheme
		want   asked
	}{
		{encrypted.URL, v1.URISchemeHTTPS, asked{true, "secret"}},
		{plain.URL, v1.URISchemeHTTPS, asked{false, ""}},
		{plain.URL, v1.URISchemeHTTP, asked{false, "secret"}},
	} {
		if err := hook(c.url, c.scheme); err != nil {
			t.Errorf("%s of %s: %v", c.scheme, c.url, err)
			continue
		}
		if got := <-requests; got != c.want {
			t.Errorf("%s of %s: asked %+v, want %+v", c.scheme, c.url, got, c.want)
		}
	}
	for _, status = range []int{http.StatusTeapot, http.StatusFound} {
		if err := hook(plain.URL, v1.URISchemeHTTP); err != nil {
			t.Errorf("an answer of status %d is not one: %v", status, err)
		}
	}
	plain.Close()
	if err := hook(plain.URL, v1.URISchemeHTTP); err == nil {
		t.Error("a hook that nobody answers is taken for done")
	}
}
