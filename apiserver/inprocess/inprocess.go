// Package inprocess lets the components of one process call its API server without a socket, TLS or a token: an
// http.RoundTripper that runs the server's handler in a goroutine. The caller's identity travels in the request's
// context, where no request from the network can put one.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/rest"
)

// Transport connects clients to the handler that is bound to it. Calls made earlier wait for that.
type Transport struct {
	bind    sync.Once
	bound   chan struct{}
	handler http.Handler
}

// NewTransport returns a Transport with no handler yet.
func NewTransport() *Transport { return &Transport{bound: make(chan struct{})} }

// Bind gives the transport its handler. The first call counts.
func (t *Transport) Bind(h http.Handler) {
	t.bind.Do(func() {
		t.handler = h
		close(t.bound)
	})
}

// Config returns what a client-go client of the given identity is made from. It speaks protobuf for the kinds that
// have it and has no limit of its own on the rate of requests.
func (t *Transport) Config(as user.Info) *rest.Config {
	return &rest.Config{
		Host:      "http://in-process",
		Transport: &caller{t: t, as: as},
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		UserAgent: as.GetName(),
		QPS:       -1,
	}
}

type identity struct{}

// Authenticator recognises the callers from within the process, and nobody else.
func (t *Transport) Authenticator() authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		as, ok := req.Context().Value(identity{}).(user.Info)
		if !ok {
			return nil, false, nil
		}
		return &authenticator.Response{User: as}, true, nil
	})
}

// Within says whether a request with context ctx comes from within the process.
func Within(ctx context.Context) bool {
	_, ok := ctx.Value(identity{}).(user.Info)
	return ok
}

// caller is the transport as one identity uses it.
type caller struct {
	t  *Transport
	as user.Info
	// shares says that watches are answered with the storage's own objects where that can be (see Watch). Nobody warns such a caller.
	shares bool
}

// RoundTrip runs the handler and returns once it has sent its headers. The handler goes on, and writes the body, until
// it is done, the body is closed or the request's context ends.
func (c *caller) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Upgrade") != "" {
		closeBody(req)
		return nil, errors.New("call the API server in process: exec, attach and port-forward need a connection to upgrade; use the network")
	}
	select {
	case <-c.t.bound:
	case <-req.Context().Done():
		closeBody(req)
		return nil, fmt.Errorf("wait for the API server to start: %w", context.Cause(req.Context()))
	}
	// The caller's context may belong to another request, whose values are none of this one's: only its end is shared.
	ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), identity{}, c.as))
	if c.shares && watches(req) {
		return c.watch(ctx, cancel, req)
	}
	w := c.serve(ctx, cancel, req)
	select {
	case <-w.started:
		return w.result(), nil
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

// watch is RoundTrip of a request to watch by a caller that shares.
func (c *caller) watch(ctx context.Context, cancel context.CancelCauseFunc, req *http.Request) (*http.Response, error) {
	life, end := context.WithCancel(context.Background())
	o := &offer{life: life, end: end}
	unhook := context.AfterFunc(req.Context(), end)
	w := c.serve(context.WithValue(ctx, offered{}, o), cancel, req)
	select {
	case <-w.started:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	if o.source != nil && w.status == http.StatusOK {
		return w.share(sharedBody{o, unhook}), nil
	}
	unhook()
	end()
	return w.result(), nil
}

// serve runs the handler in a goroutine of its own.
func (c *caller) serve(ctx context.Context, cancel context.CancelCauseFunc, req *http.Request) *response {
	w := newResponse(ctx, cancel, req)
	if !c.shares {
		ctx = warning.WithWarningRecorder(ctx, w)
	}
	served := serverRequest(ctx, req)
	unhook := context.AfterFunc(req.Context(), func() { w.abort(context.Cause(req.Context())) })
	go func() {
		defer closeBody(req)
		defer unhook()
		w.serve(c.t.handler, served)
	}()
	return w
}

// serverRequest is req as a handler sees it that received it from the network.
func serverRequest(ctx context.Context, req *http.Request) *http.Request {
	r := req.WithContext(ctx)
	u := *req.URL
	r.URL = &u
	r.RequestURI = u.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	r.Host = u.Host
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.Header = make(http.Header, len(req.Header))
	for k, v := range req.Header {
		r.Header[textproto.CanonicalMIMEHeaderKey(k)] = append([]string(nil), v...)
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	return r
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
