// Package server is the kubelet's API: what the API server asks of a node to serve logs, exec, attach and port-forward, and
// what monitoring reads. Every request is authenticated and authorized, /healthz too.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/component-base/metrics/legacyregistry"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/linger"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
)

// Config is what a Server is made from.
type Config struct {
	// Listener accepts the connections; the Server closes it.
	Listener net.Listener
	// ServingCert is shown to clients, ClientCA verifies theirs. Both may change at any time.
	ServingCert dynamiccertificates.CertKeyContentProvider
	ClientCA    dynamiccertificates.CAContentProvider
	// Authenticator and Authorizer decide on each request; see Access for the usual ones.
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer

	NodeName string
	Pods     pod.Lookup
	Runtime  internalapi.RuntimeService
	// Streams serves the URLs that Runtime returns for exec, attach and port-forward, where the runtime has no listener of
	// its own; nil if the URLs are to be dialled.
	Streams http.Handler
	// Stats serves statistics; nil if they are not served.
	Stats Stats
	// Metrics count requests, and serve /metrics/probes; optional.
	Metrics *metrics.Set
	// Settings are what the kubelet runs with, a KubeletConfiguration; nil if they are not told.
	Settings func() any
	// LogDirectory holds the node's logs, which /logs/ serves; empty means /var/log.
	LogDirectory string
}

// Stats are the handlers of statistics, each for its path.
type Stats interface {
	KubeletMetrics() http.Handler   // /metrics
	SummaryHandler() http.Handler   // /stats/summary
	ResourceMetrics() http.Handler  // /metrics/resource
	ContainerMetrics() http.Handler // /metrics/cadvisor
}

// Server is the kubelet's HTTPS server.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// New returns a server that does not serve yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	healthz.InstallHandler(s.mux, healthz.PingHealthz)
	s.mux.HandleFunc("GET /pods", s.pods)
	s.mux.HandleFunc("GET /pods/{$}", s.pods)
	s.mux.HandleFunc("GET /runningpods", s.runningPods)
	s.mux.HandleFunc("GET /runningpods/{$}", s.runningPods)
	s.mux.HandleFunc("GET /logs/", s.nodeLogs)
	s.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		s.mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		s.mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		s.mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
	}
	if cfg.Stats == nil {
		s.mux.Handle("GET /metrics", legacyregistry.Handler())
	} else {
		s.mux.Handle("GET /metrics", cfg.Stats.KubeletMetrics())
		s.mux.Handle("GET /stats/summary", cfg.Stats.SummaryHandler())
		s.mux.Handle("GET /metrics/resource", cfg.Stats.ResourceMetrics())
		s.mux.Handle("GET /metrics/cadvisor", cfg.Stats.ContainerMetrics())
	}
	if cfg.Metrics != nil {
		s.mux.Handle("GET /metrics/probes", cfg.Metrics.Probes())
	}
	if cfg.Settings != nil {
		s.mux.HandleFunc("GET /configz", s.configz)
	}
	return s
}

// Run serves until ctx ends. Streams that are open then are cut: their clients' API server goes, too, or reconnects.
func (s *Server) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("kubelet-server")
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// HTTP/1.1 only: SPDY and WebSocket upgrade from it.
		NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequestClientCert,
	}
	dynamic := dynamiccertificates.NewDynamicServingCertificateController(config, s.cfg.ClientCA, s.cfg.ServingCert, nil, nil)
	if err := dynamic.RunOnce(); err != nil {
		return fmt.Errorf("load kubelet serving certificate: %w", err)
	}
	config.GetConfigForClient = dynamic.GetConfigForClient
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	s.cfg.ServingCert.AddListener(dynamic)
	s.cfg.ClientCA.AddListener(dynamic)
	background.Go(func() { dynamic.Run(1, ctx.Done()) })

	server := &http.Server{
		Handler:           s.cfg.Metrics.Requests(s.guard(s.mux)),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		BaseContext:       func(net.Listener) context.Context { return klog.NewContext(ctx, logger) },
	}
	background.Go(func() {
		<-ctx.Done()
		server.Close()
	})
	err := server.Serve(tls.NewListener(linger.Listen(s.cfg.Listener), config))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve kubelet API: %w", err)
}

// configz tells the settings.
func (s *Server) configz(w http.ResponseWriter, r *http.Request) {
	b, err := json.Marshal(map[string]any{"kubeletconfig": s.cfg.Settings()})
	if err != nil {
		fail(w, r, fmt.Errorf("encode settings: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// statusError is an error with the HTTP status that says what kind it is.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func notFound(format string, args ...any) error {
	return &statusError{http.StatusNotFound, fmt.Errorf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// fail answers with err.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	var s *statusError
	var missing *pod.NoContainerError
	switch {
	case errors.As(err, &s):
		code = s.code
	case errors.As(err, &missing):
		code = http.StatusBadRequest
	default:
		klog.FromContext(r.Context()).Error(err, "Kubelet request failed", "path", r.URL.Path)
	}
	http.Error(w, err.Error(), code)
}
