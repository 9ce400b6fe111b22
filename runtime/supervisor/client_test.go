package supervisor

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// late is a context whose time is over and whose timer has not run, as on a machine with much to do. Who waits for its end sets it off.
type late struct {
	context.Context
	end func()
}

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

func (l late) Done() <-chan struct{} {
	l.end()
	return l.Context.Done()
}

// TestGivenUpWhileConnecting: a request whose time is over when it is to be sent was given up by its caller, and the caller can see that
// from its context; it is no failure of the supervisor.
func TestGivenUpWhileConnecting(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "supervisor.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inner, cancel := context.WithCancelCause(context.Background())
	after := sync.OnceFunc(func() { time.AfterFunc(10*time.Millisecond, func() { cancel(context.DeadlineExceeded) }) })
	ctx := late{inner, after}
	_, err = New(Config{RunDir: dir}).Start(ctx, "id", nil)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		t.Errorf("%v, while the context says %v", err, ctx.Err())
	}
}
