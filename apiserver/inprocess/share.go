package inprocess

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// sharedType is the Content-Type of a watch whose body is a sharedBody: it has no bytes. Nobody can ask for it. It is what the
// answer to a caller that shares becomes once storage has taken up the offer in the request's context.
const sharedType = "application/vnd.peapod.shared"

// offer is in the context of a request to watch whose caller takes the storage's objects as they are.
type offer struct {
	// life ends when nobody reads the watch any more.
	life context.Context
	end  context.CancelFunc
	// source is what was handed over, nil if nothing was. It is set before the headers are sent.
	source watch.Interface
}

type offered struct{}

// Watch is called by storage to begin the watch that ctx asks for, by start. If who asked is within the process and shares, the watch
// is handed over to it: its events reach the caller as they are, neither encoded nor decoded, read-only beneath their objects' first
// level. What is left for the handler is a watch that is over, so that a handler with its stack is not kept for as long as the watch
// goes on. By then it has done its part: the caller is authenticated and authorized, and the request audited. The watch has the deadline
// that the handler has set.
func Watch(ctx context.Context, start func(context.Context) (watch.Interface, error)) (watch.Interface, error) {
	o, ok := ctx.Value(offered{}).(*offer)
	if !ok {
		return start(ctx)
	}
	life := request.WithNamespace(o.life, request.NamespaceValue(ctx))
	if info, ok := request.RequestInfoFrom(ctx); ok {
		life = request.WithRequestInfo(life, info)
	}
	if deadline, ok := ctx.Deadline(); ok {
		life, o.end = context.WithDeadline(life, deadline)
	}
	source, err := start(life)
	if err != nil {
		return nil, err
	}
	o.source = source
	return watch.NewEmptyWatch(), nil
}

// Shares says whether a request with context ctx is one to watch whose caller shares: Watch would hand its watch over.
func Shares(ctx context.Context) bool {
	_, ok := ctx.Value(offered{}).(*offer)
	return ok
}

// watches says whether a request is one to watch.
func watches(req *http.Request) bool {
	if req.Method != http.MethodGet || req.URL.RawQuery == "" {
		return false
	}
	yes, err := strconv.ParseBool(req.URL.Query().Get("watch"))
	return err == nil && yes
}

// sharedBody is the body of an answer of sharedType.
type sharedBody struct {
	offer *offer
	// unhook takes the end of the caller's context off the offer's.
	unhook func() bool
}

// Read fails: there are no bytes.
func (sharedBody) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read a response of type %s: its events are no bytes", sharedType)
}

// Close ends the watch.
func (b sharedBody) Close() error {
	b.unhook()
	b.offer.end()
	b.offer.source.Stop()
	return nil
}

// share makes the answer to an offer that was taken up.
func (r *response) share(b sharedBody) *http.Response {
	resp := r.result()
	resp.Header.Set("Content-Type", sharedType)
	resp.Body, resp.ContentLength = b, -1
	return resp
}
