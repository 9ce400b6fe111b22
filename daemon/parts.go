package daemon

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"
)

// parts are what runs, in the order in which it was started. They are stopped in reverse order, each only when what was
// started after it has ended; the first to fail stops all.
type parts struct {
	log     klog.Logger
	ctx     context.Context
	fail    context.CancelCauseFunc
	started []*part
}

type part struct {
	name string
	stop func()
	done chan struct{}
	err  error
}

// newParts returns an empty list. The context it returns ends when ctx does or a part fails.
func newParts(ctx context.Context) (*parts, context.Context) {
	ctx, fail := context.WithCancelCause(ctx)
	return &parts{log: klog.FromContext(ctx), ctx: ctx, fail: fail}, ctx
}

// start runs a part until it is its turn to stop. A part that ends before is a failure, whatever it returns.
func (ps *parts) start(name string, run func(ctx context.Context) error) {
	// A part does not end with ctx, but when it is told to: those after it may still need it.
	ctx, stop := context.WithCancel(context.WithoutCancel(ps.ctx))
	p := &part{name: name, stop: stop, done: make(chan struct{})}
	ps.started = append(ps.started, p)
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if ctx.Err() == nil {
			if p.err == nil {
				p.err = errors.New("ended by itself")
			}
			ps.fail(fmt.Errorf("%s: %w", name, p.err))
		}
	}()
}

// closing registers what only has to be closed.
func (ps *parts) closing(name string, shut func() error) {
	ps.start(name, func(ctx context.Context) error {
		<-ctx.Done()
		return shut()
	})
}

// stop ends all parts, last first, and returns what failed: the failure that began it, then those of stopping.
func (ps *parts) stop() error {
	var errs []error
	if cause := context.Cause(ps.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		errs = append(errs, cause)
	}
	for i := len(ps.started) - 1; i >= 0; i-- {
		p := ps.started[i]
		failed := false
		select {
		case <-p.done:
			failed = true // reported as the cause
		default:
		}
		p.stop()
		<-p.done
		if p.err != nil && !failed {
			errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
		}
		ps.log.V(1).Info("Stopped", "part", p.name)
	}
	return errors.Join(errs...)
}
