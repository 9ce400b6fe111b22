package apiserver

import (
	"context"
	"net/http"
	"time"

	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/peapod/peapod/apiserver/inprocess"
)

// handlerChain puts before api what every request passes, the last of the list first. It is what k8s.io/apiserver does by
// default, in its order, without what is not configured here (CORS, HSTS, GOAWAY, Retry-After while stopping) and
// without the two parts that cost most and have nobody to serve: tracing, which does all of its work for a tracer that drops it,
// and the notes that it and the measuring of filters leave in ten copies of the request. A Pod that is placed takes two requests;
// each of them is some 25 us of processor time less.
func (s *Server) handlerChain(api http.Handler, c *genericapiserver.Config) http.Handler {
	h := measured("authorization", api, func(next http.Handler) http.Handler {
		return genericapifilters.WithAuthorization(next, c.Authorization.Authorizer, c.Serializer)
	})
	h = limited(h, c)
	h = measured("constrainedimpersonation", h, func(next http.Handler) http.Handler {
		return impersonation.WithConstrainedImpersonation(next, c.Authorization.Authorizer, c.Serializer)
	})
	h = measured("audit", h, func(next http.Handler) http.Handler {
		return genericapifilters.WithAudit(next, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc)
	})
	h = authenticated(h, c)
	h = timed(h, c)
	h = genericapifilters.WithRequestDeadline(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc, c.Serializer, c.RequestTimeout)
	h = genericfilters.WithWaitGroup(h, c.LongRunningFunc, c.NonLongRunningRequestWaitGroup)
	h = endingStreams(h, c.LongRunningFunc, c.DrainedNotify())
	h = genericfilters.WithWatchTerminationDuringShutdown(h, stopping(c.ShutdownInitiatedNotify()), c.WatchRequestWaitGroup)
	h = genericapifilters.WithCacheControl(h)
	h = genericfilters.WithHTTPLogging(h)
	h = genericapifilters.WithLatencyTrackers(h)
	h = genericapifilters.WithRequestInfo(h, c.RequestInfoResolver)
	h = genericapifilters.WithRequestReceivedTimestamp(h)
	h = genericapifilters.WithMuxAndDiscoveryComplete(h, s.installed)
	h = genericfilters.WithPanicRecovery(h, c.RequestInfoResolver)
	return genericapifilters.WithAuditInit(h)
}

// limited bounds how many requests are served at once: by flow control if there is any, by their number otherwise.
func limited(h http.Handler, c *genericapiserver.Config) http.Handler {
	if c.FlowControl == nil {
		return genericfilters.WithMaxInFlightLimit(h, c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight, c.LongRunningFunc)
	}
	estimator := flowcontrolrequest.NewWorkEstimator(c.StorageObjectCountTracker.Get, c.FlowControl.GetInterestedWatchCount,
		flowcontrolrequest.DefaultWorkEstimatorConfig(), c.FlowControl.GetMaxSeats)
	return measured("priorityandfairness", h, func(next http.Handler) http.Handler {
		return genericfilters.WithPriorityAndFairness(next, c.LongRunningFunc, c.FlowControl, estimator, c.RequestTimeout/4)
	})
}

// timed answers requests that take too long, for which they get a goroutine of their own and writers between, and records warnings for
// them. Those from within the process do without: who makes them waits no longer than its own context says, and is warned by its
// transport.
func timed(h http.Handler, c *genericapiserver.Config) http.Handler {
	outside := genericfilters.WithTimeoutForNonLongRunningRequests(genericapifilters.WithWarningRecorder(h), c.LongRunningFunc)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if inprocess.Within(r.Context()) {
			h.ServeHTTP(w, r)
			return
		}
		outside.ServeHTTP(w, r)
	})
}

// authenticated is the filter that finds out who asks, with what is before it and answers for those who are nobody.
func authenticated(h http.Handler, c *genericapiserver.Config) http.Handler {
	const name = "authentication"
	failed := genericapifilters.WithFailedAuthenticationAudit(genericapifilters.Unauthorized(c.Serializer), c.AuditBackend, c.AuditPolicyRuleEvaluator)
	h = measured(name, h, func(next http.Handler) http.Handler {
		return genericapifilters.WithAuthentication(next, c.Authentication.Authenticator, ended(name, failed), c.Authentication.APIAudiences,
			c.Authentication.RequestHeaderConfig)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), begun{}, new(time.Time))))
	})
}

// begun is the key under which a request's context has the *time.Time at which the filter that is measured began. Filters are one
// after the other, so that one will do.
type begun struct{}

// measured puts filter before next, and has metric apiserver_request_filter_duration_seconds say how long it takes to get through.
func measured(name string, next http.Handler, filter func(http.Handler) http.Handler) http.Handler {
	filtered := filter(ended(name, next))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t, ok := r.Context().Value(begun{}).(*time.Time); ok {
			*t = time.Now()
		}
		filtered.ServeHTTP(w, r)
	})
}

// ended is where a request comes to after the filter of that name.
func ended(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t, ok := r.Context().Value(begun{}).(*time.Time); ok {
			metrics.RecordFilterLatency(r.Context(), name, time.Since(*t))
		}
		next.ServeHTTP(w, r)
	})
}

// stopping is closed when the server begins to stop.
type stopping <-chan struct{}

// ShuttingDown implements k8s.io/apiserver's interface.
func (c stopping) ShuttingDown() <-chan struct{} { return c }

// awaitInstalled closes installed when all paths are served, until when what is not found may still come, and answers 503. The paths of
// kinds in the program are there before the server runs; it is those of kinds that users define which come.
func (s *Server) awaitInstalled(ctx context.Context) {
	select {
	case <-s.custom.Defined().Known():
		close(s.installed)
	case <-ctx.Done():
	}
}
