package customresource

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/client-go/tools/cache"
	source "k8s.io/client-go/tools/cache/testing"
)

// A request that came when not all kinds were known is not told that there is no such kind, though by now they are: it may have looked
// before.
func TestNothingIsMissingTooEarly(t *testing.T) {
	informer := cache.NewSharedIndexInformer(source.NewFakeControllerSource(), &apiextensionsv1.CustomResourceDefinition{}, 0, nil)
	s := &Server{defined: &Defined{informer: informer}}
	installed := make(chan struct{})
	complete := func() (is bool) {
		answer := genericapifilters.WithMuxAndDiscoveryComplete(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { is = s.complete(r.Context()) }), installed)
		answer.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/apis/x/v1/y", nil))
		return is
	}
	if complete() || s.complete(t.Context()) {
		t.Error("complete while nothing is known")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	<-s.defined.Known()
	if complete() {
		t.Error("complete for a request that came before")
	}
	close(installed)
	if !complete() {
		t.Error("not complete for one that came after")
	}
}
