package apiserver

import (
	"context"
	"net/http"

	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/streaming/pkg/httpstream"
)

// endingStreams cuts off what is answered for as long as the client wants, such as a log that is followed from another node, once the
// server stops and has answered everything else (drained): nothing ends it by itself, so that it held up the stop for the whole grace.
// The client is told by a broken answer, as it would take a whole one for the end of the log. Watches are ended by another filter,
// in order; connections that have become something else (exec, port-forward) hold nothing up.
func endingStreams(next http.Handler, longRunning apirequest.LongRunningRequestCheck, drained <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := apirequest.RequestInfoFrom(r.Context())
		if !ok || info.Verb == "watch" || !longRunning(r, info) || httpstream.IsUpgradeRequest(r) {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		go func() {
			select {
			case <-drained:
				cancel(http.ErrServerClosed)
			case <-ctx.Done():
			}
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
		if context.Cause(ctx) == http.ErrServerClosed {
			panic(http.ErrAbortHandler)
		}
	})
}
