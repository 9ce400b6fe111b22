// Package probe checks containers from outside: liveness, readiness and startup
// probes, each on its own timer, and the handlers that lifecycle hooks share
// with them.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	internalapi "k8s.io/cri-api/pkg/apis"
	utilexec "k8s.io/utils/exec"
)

const (
	userAgent = "kube-probe/1.37"
	// maxBody is how much of an answer or an output is read, in bytes.
	maxBody = 10 * 1024
	// maxRedirects within one host.
	maxRedirects = 10
)

// verdict is one check's answer; warning: it is ok, and what it says is worth telling.
type verdict struct {
	ok      bool
	text    string
	warning bool
}

// target is whom to ask.
type target struct {
	pod         *v1.Pod
	podIP       string
	container   *v1.Container
	containerID string
}

// Checker runs single checks.
type Checker struct {
	Runtime internalapi.RuntimeService
}

// check runs a probe once. err: the check itself could not be made; its result
// is then unknown, and counts as a failure for exec only when it timed out.
func (c *Checker) check(ctx context.Context, t *target, p *v1.Probe) (verdict, error) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		return c.exec(ctx, t, p.Exec.Command, timeout)
	case p.HTTPGet != nil:
		return httpCheck(ctx, t, p.HTTPGet)
	case p.TCPSocket != nil:
		return tcpCheck(ctx, t, p.TCPSocket)
	case p.GRPC != nil:
		return grpcCheck(ctx, t, p.GRPC, timeout)
	}
	return verdict{}, fmt.Errorf("missing probe handler for %s:%s", t.pod.Name, t.container.Name)
}

func (c *Checker) exec(ctx context.Context, t *target, command []string, timeout time.Duration) (verdict, error) {
	stdout, stderr, err := c.Runtime.ExecSync(ctx, t.containerID, command, timeout)
	out := append(stdout, stderr...)
	text := string(out[:min(len(out), maxBody)])
	if err == nil {
		return verdict{ok: true, text: text}, nil
	}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return verdict{ok: exit.ExitStatus() == 0, text: text}, nil
	}
	if status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return verdict{text: fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)}, nil
	}
	return verdict{}, err
}

func port(p intstr.IntOrString, c *v1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		n = 0
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				n = int(c.Ports[i].ContainerPort)
			}
		}
		if n == 0 {
			var err error
			if n, err = strconv.Atoi(p.StrVal); err != nil {
				return 0, fmt.Errorf("couldn't find port: %s in container %s", p.StrVal, c.Name)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

func address(host string, t *target) string {
	if host == "" {
		return t.podIP
	}
	return host
}

// request is the HTTP request of a handler.
func request(ctx context.Context, t *target, h *v1.HTTPGetAction, agent string) (*http.Request, error) {
	n, err := port(h.Port, t.container)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(h.Path)
	if err != nil { // a path that is none is sent as it is
		u = &url.URL{Path: h.Path}
	}
	u.Scheme = "http"
	if h.Scheme != "" {
		u.Scheme = strings.ToLower(string(h.Scheme))
	}
	u.Host = net.JoinHostPort(address(h.Host, t), strconv.Itoa(n))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, kv := range h.HTTPHeaders {
		req.Header.Add(kv.Name, kv.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	switch _, ok := req.Header["Accept"]; {
	case !ok:
		req.Header.Set("Accept", "*/*")
	case req.Header.Get("Accept") == "":
		req.Header.Del("Accept")
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	return req, nil
}

// client follows redirects within the asked host only: a probe must not make
// the node talk to whoever a container names. One that leads elsewhere is the
// answer. Certificates are not checked: a Pod's address is in none.
func client(name string) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, ServerName: name}, //nolint:gosec // see above
		DisableKeepAlives:  true,
		DisableCompression: true,
		Proxy:              nil,
		DialContext:        dialer().DialContext,
	}
	return &http.Client{Transport: tr, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= maxRedirects {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
}

func httpCheck(ctx context.Context, t *target, h *v1.HTTPGetAction) (verdict, error) {
	req, err := request(ctx, t, h, userAgent)
	if err != nil {
		return verdict{}, err
	}
	name := ""
	if req.Host != "" && req.Host != req.URL.Host {
		name = (&url.URL{Host: req.Host}).Hostname()
	}
	resp, err := client(name).Do(req)
	if err != nil {
		return verdict{text: err.Error()}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return verdict{}, err
	}
	switch code := resp.StatusCode; {
	case code >= http.StatusOK && code < http.StatusMultipleChoices:
		return verdict{ok: true, text: string(body)}, nil
	case code >= http.StatusMultipleChoices && code < http.StatusBadRequest: // it answered: that is what was asked
		return verdict{ok: true, warning: true, text: fmt.Sprintf("Probe terminated redirects, Response body: %s", body)}, nil
	}
	return verdict{text: fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}, nil
}

// dialer lets a closed connection linger for at most a second, not the
// kernel's minute: thousands of probes must not use up the ports.
func dialer() *net.Dialer {
	return &net.Dialer{Control: lingerZero}
}

func tcpCheck(ctx context.Context, t *target, h *v1.TCPSocketAction) (verdict, error) {
	n, err := port(h.Port, t.container)
	if err != nil {
		return verdict{}, err
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(address(h.Host, t), strconv.Itoa(n)))
	if err != nil {
		return verdict{text: err.Error()}, nil
	}
	return verdict{ok: true}, conn.Close()
}

func grpcCheck(ctx context.Context, t *target, h *v1.GRPCAction, timeout time.Duration) (verdict, error) {
	service := ""
	if h.Service != nil {
		service = *h.Service
	}
	addr := net.JoinHostPort(t.podIP, strconv.Itoa(int(h.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return verdict{text: fmt.Sprintf("error: health rpc probe failed: %+v", err)}, nil
	}
	defer conn.Close()
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{})
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		switch s := status.Convert(err); s.Code() {
		case codes.Unimplemented:
			return verdict{text: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", s.Message())}, nil
		case codes.DeadlineExceeded:
			return verdict{text: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}, nil
		case codes.Unavailable:
			return verdict{text: fmt.Sprintf("timeout: failed to connect service %q within %v: %s", addr, timeout, s.Message())}, nil
		default:
			return verdict{text: fmt.Sprintf("error: health rpc probe failed: %s", s.Message())}, nil
		}
	}
	if got := resp.GetStatus(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		return verdict{text: fmt.Sprintf("service unhealthy (responded with %q)", got)}, nil
	}
	return verdict{ok: true, text: "service healthy"}, nil
}
