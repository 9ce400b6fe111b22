package inprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"
)

// window is how many bytes a handler may be ahead of the reader, beyond one write, before it has to wait.
const window = 256 << 10

var errBodyClosed = errors.New("response body closed")

// response is both ends of one response: the http.ResponseWriter of the handler and the body that the caller reads.
type response struct {
	req     *http.Request   // the caller's
	ctx     context.Context // the handler's
	cancel  context.CancelCauseFunc
	started chan struct{}

	header http.Header // the handler's until started is closed

	mu       sync.Mutex
	change   sync.Cond // on buf or err
	warnings []string  // to go with the headers
	status   int       // 0 until the headers are sent
	sent     http.Header
	buf      bytes.Buffer
	err      error // what a read gets once buf is empty; nil while the handler runs
	gone     error // what a write gets; nil while the caller reads
}

var _ warning.Recorder = (*response)(nil)

func newResponse(ctx context.Context, cancel context.CancelCauseFunc, req *http.Request) *response {
	r := &response{req: req, ctx: ctx, cancel: cancel, started: make(chan struct{}), header: http.Header{}}
	r.change.L = &r.mu
	return r
}

// serve runs the handler to its end.
func (r *response) serve(h http.Handler, req *http.Request) {
	defer r.cancel(nil)
	defer func() {
		cause := recover()
		switch {
		case cause == nil:
			r.WriteHeader(http.StatusOK)
			r.end(io.EOF)
		case cause == http.ErrAbortHandler:
			r.fail(io.ErrUnexpectedEOF)
		default:
			klog.FromContext(req.Context()).Error(fmt.Errorf("%v", cause), "Handler of an in-process request panicked",
				"method", req.Method, "path", req.URL.Path, "stack", string(debug.Stack()))
			r.fail(io.ErrUnexpectedEOF)
		}
	}()
	h.ServeHTTP(r, req)
}

// fail ends a response that the handler did not finish.
func (r *response) fail(err error) {
	r.WriteHeader(http.StatusInternalServerError)
	r.end(err)
}

func (r *response) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.change.Broadcast()
}

// abort is called when the caller no longer wants the response.
func (r *response) abort(err error) {
	r.mu.Lock()
	if r.gone == nil {
		r.gone = err
	}
	if r.err == nil {
		r.err = err
	}
	r.change.Broadcast()
	r.mu.Unlock()
	r.cancel(err)
}

// AddWarning implements warning.Recorder. It may be called by what goes on after the handler has given up, and has no effect once
// the headers are sent; so it does not touch the handler's.
func (r *response) AddWarning(agent, text string) {
	if agent == "" {
		agent = "-" // unknown, by RFC 7234
	}
	header, err := utilnet.NewWarningHeader(299, agent, text)
	if err != nil || text == "" {
		return // as for callers from the network: nothing, or not a text for a header
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == 0 && !slices.Contains(r.warnings, header) {
		r.warnings = append(r.warnings, header)
	}
}

// result is the response as the caller gets it. Called once started is closed.
func (r *response) result() *http.Response {
	length := int64(-1)
	if n, err := strconv.ParseInt(r.sent.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	return &http.Response{
		Status:     strconv.Itoa(r.status) + " " + http.StatusText(r.status),
		StatusCode: r.status,
		Proto:      "HTTP/2.0", ProtoMajor: 2,
		Header:        r.sent,
		Body:          body{r},
		ContentLength: length,
		Request:       r.req,
	}
}

// Header, WriteHeader, Write, Flush and CloseNotify are the handler's side. The last is deprecated, but its presence is
// how filters tell a writer that streams from one that does not.

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != 0 || status < 200 {
		return
	}
	r.status, r.sent = status, r.header.Clone()
	for _, text := range r.warnings {
		r.sent.Add("Warning", text)
	}
	close(r.started)
}

func (r *response) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.gone == nil && r.buf.Len() > window {
		r.change.Wait()
	}
	if r.gone != nil {
		return 0, r.gone
	}
	n, err := r.buf.Write(p)
	r.change.Broadcast()
	return n, err
}

func (r *response) Flush() { r.WriteHeader(http.StatusOK) }

func (r *response) CloseNotify() <-chan bool {
	c := make(chan bool, 1)
	context.AfterFunc(r.ctx, func() { c <- true })
	return c
}

// body is the caller's side.
type body struct{ r *response }

func (b body) Read(p []byte) (int, error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.buf.Len() == 0 && r.err == nil {
		r.change.Wait()
	}
	if r.gone != nil {
		return 0, r.gone
	}
	if r.buf.Len() == 0 {
		return 0, r.err
	}
	n, err := r.buf.Read(p)
	if r.buf.Len() == 0 && r.buf.Cap() > window {
		r.buf = bytes.Buffer{} // A long watch does not keep the room that one large list took.
	}
	r.change.Broadcast()
	return n, err
}

func (b body) Close() error {
	b.r.abort(errBodyClosed)
	return nil
}
