// Package gather has the answers to lists sent in large pieces. k8s.io/apiserver encodes a list one object at a time, by two
// writes each, and HTTP/2 makes a frame and a TLS record of every 4 kB: for 2,000 Pods that is 4,000 writes through all
// filters and 500 times a change between goroutines and a system call.
package gather

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/klog/v2"
)

// piece is how much is sent at once. A list that is smaller is sent when it is complete, as without this package.
const piece = 64 << 10

var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, piece) }}

// Lists is next, whose answers to lists are sent in pieces, and which is told of lists that are sent as protobuf. Encodings are
// those that lists may be sent in. It stands inside of the filter that reads the request's information, next to the
// handlers, so that the writes of one object pass no other filter. All other answers, those to watches among them, are
// untouched.
func Lists(next http.Handler, encodings []runtime.SerializerInfo) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, ok := request.RequestInfoFrom(r.Context()); !ok || !info.IsResourceRequest || info.Verb != "list" {
			next.ServeHTTP(w, r)
			return
		}
		buffer := buffers.Get().(*bufio.Writer)
		buffer.Reset(w)
		// If the handler panics the answer is cut off, and what is in the buffer belongs to the part that is missing.
		defer func() {
			buffer.Reset(nil)
			buffers.Put(buffer)
		}()
		if plainProtobuf(r.Header.Get("Accept"), encodings) {
			r = r.WithContext(context.WithValue(r.Context(), protobuf{}, true))
		}
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(&writer{ResponseWriter: w, buffer: buffer}), r)
		if err := buffer.Flush(); err != nil {
			klog.FromContext(r.Context()).V(2).Info("Cannot send the end of a list", "path", r.URL.Path, "err", err)
		}
	})
}

type protobuf struct{}

// AsProtobuf says whether what the request of ctx lists is sent as a protobuf message of the list itself, rather than as a table
// of it or in another encoding.
func AsProtobuf(ctx context.Context) bool { return ctx.Value(protobuf{}) != nil }

// plainProtobuf says whether the handlers will choose to send protobuf, with no change to what is sent.
func plainProtobuf(accept string, encodings []runtime.SerializerInfo) bool {
	if !strings.Contains(accept, runtime.ContentTypeProtobuf) {
		return false
	}
	chosen, ok := negotiation.NegotiateMediaTypeOptions(accept, encodings, anything{})
	return ok && chosen.Accepted.MediaType == runtime.ContentTypeProtobuf && chosen.Convert == nil && chosen.Stream == "" && chosen.UseServerVersion == ""
}

// anything allows everything, so that what is chosen by it, if it asks for nothing special, is what any handler chooses: no
// handler allows more, and none refuses that.
type anything struct{}

func (anything) AllowsMediaTypeTransform(_, _ string, _ *schema.GroupVersionKind) bool { return true }
func (anything) AllowsServerVersion(string) bool                                       { return true }
func (anything) AllowsStreamSchema(string) bool                                        { return true }

// writer is a ResponseWriter whose body goes through a buffer.
type writer struct {
	http.ResponseWriter
	buffer *bufio.Writer
}

var _ responsewriter.UserProvidedDecorator = (*writer)(nil)

// Write implements io.Writer. An error is that of this piece or of an earlier one.
func (w *writer) Write(p []byte) (int, error) { return w.buffer.Write(p) }

// Flush sends what there is.
func (w *writer) Flush() {
	// An error comes back from the next Write.
	if err := w.buffer.Flush(); err == nil {
		if f, ok := w.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
	}
}

// Unwrap returns the writer beneath.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
