package connect

import (
	"errors"
	"net"
	"net/http"

	"k8s.io/klog/v2"
)

// quiet serves without what the WebSocket library logs as an error at the end of every session: that what it reads from has been closed,
// which is how this side ends a session. It logs with the logger of the request's context.
func quiet(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		handler.ServeHTTP(w, r.WithContext(klog.NewContext(ctx, klog.New(newQuietSink(klog.FromContext(ctx).GetSink())))))
	})
}

// quietSink is a log without errors that say net.ErrClosed.
type quietSink struct{ klog.LogSink }

// newQuietSink has the sink name the caller of its caller, for there is one more between.
func newQuietSink(sink klog.LogSink) quietSink {
	if s, ok := sink.(interface{ WithCallDepth(int) klog.LogSink }); ok {
		sink = s.WithCallDepth(1)
	}
	return quietSink{sink}
}

// Init does nothing: the sink is in use already.
func (quietSink) Init(klog.RuntimeInfo) {}

// Info is written out so that it is as deep as Error.
func (s quietSink) Info(level int, msg string, keysAndValues ...any) {
	s.LogSink.Info(level, msg, keysAndValues...)
}

func (s quietSink) Error(err error, msg string, keysAndValues ...any) {
	if !errors.Is(err, net.ErrClosed) {
		s.LogSink.Error(err, msg, keysAndValues...)
	}
}

func (s quietSink) WithValues(keysAndValues ...any) klog.LogSink {
	return quietSink{s.LogSink.WithValues(keysAndValues...)}
}

func (s quietSink) WithName(name string) klog.LogSink { return quietSink{s.LogSink.WithName(name)} }
