package proxy

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// healthServers answer load balancers outside, on the health check node port of each Service with externalTrafficPolicy
// Local, whether this node has endpoints of it. The port is part of the API and has no authentication; it tells a name
// and a number. Its zero value is ready; set is for one goroutine.
type healthServers struct {
	// host is where they listen: nil is all addresses, but to Go on machines without 127.0.0.1 those of IPv4 alone.
	host    net.IP
	servers map[types.NamespacedName]*healthServer
	running sync.WaitGroup
}

type healthServer struct {
	name  types.NamespacedName
	port  int32
	local atomic.Int64
	http  http.Server
}

// set notes how many local endpoints a Service has, and where that is asked for; port 0 is nowhere.
func (h *healthServers) set(ctx context.Context, name types.NamespacedName, port int32, local int) {
	s := h.servers[name]
	if s != nil && s.port != port {
		h.end(s)
		s = nil
	}
	if port == 0 {
		return
	}
	if s == nil {
		if s = h.start(ctx, name, port); s == nil {
			return
		}
	}
	s.local.Store(int64(local))
}

// start serves, or tells why it cannot: another process may have the port.
func (h *healthServers) start(ctx context.Context, name types.NamespacedName, port int32) *healthServer {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: h.host, Port: int(port)})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot serve the health check of a service", "service", name, "port", port)
		return nil
	}
	const slow = 10 * time.Second
	s := &healthServer{name: name, port: port}
	s.http = http.Server{Handler: s, ReadHeaderTimeout: slow, ReadTimeout: slow, WriteTimeout: slow, IdleTimeout: slow, MaxHeaderBytes: 4 << 10}
	if h.servers == nil {
		h.servers = map[types.NamespacedName]*healthServer{}
	}
	h.servers[name] = s
	h.running.Go(func() { _ = s.http.Serve(listener) }) // ends with Close
	return s
}

func (h *healthServers) end(s *healthServer) {
	_ = s.http.Close() // the listener is ours alone
	delete(h.servers, s.name)
}

func (h *healthServers) close() {
	for _, s := range h.servers {
		h.end(s)
	}
	h.running.Wait()
}

func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	n := s.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"service": service{s.name.Namespace, s.name.Name}, "localEndpoints": n, "serviceProxyHealthy": true})
}
