package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/component-base/metrics"
)

// requests are those to the kubelet's own server.
type requests struct {
	total    *metrics.CounterVec
	duration *metrics.HistogramVec
	inFlight *metrics.GaugeVec
}

func (s *Set) makeRequests() {
	labels := []string{"method", "path", "server_type", "long_running"}
	s.requests = requests{
		total:    s.counters("http_requests_total", "Number of the http requests received since the server started", labels...),
		duration: s.histograms("kubelet_http_requests_duration_seconds", "Duration in seconds to serve http requests", metrics.DefBuckets, labels...),
		inFlight: metrics.NewGaugeVec(&metrics.GaugeOpts{Name: "kubelet_http_inflight_requests", StabilityLevel: metrics.ALPHA, Help: "Number of the inflight http requests"}, labels),
	}
	s.kubelet.MustRegister(s.requests.inFlight)
}

// paths are those that are told apart, by how they begin.
var paths = []string{
	"metrics/cadvisor", "metrics/probes", "metrics/resource", "metrics", "stats", "healthz", "configz", "pods", "runningpods", "logs",
	"containerLogs", "exec", "attach", "portForward",
}

func pathLabel(path string) string {
	path = strings.TrimPrefix(path, "/")
	i := slices.IndexFunc(paths, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
	if i < 0 {
		return "other"
	}
	return paths[i]
}

// methods are those that are told apart.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// Requests counts the requests that next serves. Whoever asks for what does not exist cannot make labels.
func (s *Set) Requests(next http.Handler) http.Handler {
	if s == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, method := pathLabel(r.URL.Path), r.Method
		if !slices.Contains(methods, method) {
			method = "other"
		}
		long := path == "exec" || path == "attach" || path == "portForward"
		labels := []string{method, path, "readwrite", strconv.FormatBool(long)}
		s.requests.total.WithLabelValues(labels...).Inc()
		s.requests.inFlight.WithLabelValues(labels...).Inc()
		began := time.Now()
		defer func() {
			s.requests.inFlight.WithLabelValues(labels...).Dec()
			s.requests.duration.WithLabelValues(labels...).Observe(time.Since(began).Seconds())
		}()
		next.ServeHTTP(w, r)
	})
}
