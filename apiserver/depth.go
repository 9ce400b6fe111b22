package apiserver

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/peapod/peapod/internal/deepstack"
)

// A request passes through three goroutines: that of its connection's server, one that may outlive its time-out (from the network), and for
// writes one that finishes what it has begun. Here, and in registry's Update, is where each of them comes to first.

// deepHandler is for the first goroutine.
func deepHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deepstack.Reserve()
		next.ServeHTTP(w, r)
	})
}

// deepAuthenticator is for the second goroutine.
func deepAuthenticator(a authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		deepstack.Reserve()
		return a.AuthenticateRequest(r)
	})
}

// deepCreater is for the third goroutine of a creation, which begins by making an empty object.
type deepCreater struct{ runtime.ObjectCreater }

func (c deepCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	deepstack.Reserve()
	return c.ObjectCreater.New(kind)
}
