package pod

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// operation is an action under way.
type operation struct {
	Op
	cancel    context.CancelFunc
	cancelled bool // its failure is no news
}

// result is an operation's outcome, or news for the mailbox.
type result struct {
	action Action
	err    error
	retry  string // a failed key that may be tried again now
	refuse *Refusal
}

// launch starts an action's operation. Its outcome comes by mail.
func (w *worker) launch(ctx context.Context, in *Input, a Action) {
	opCtx, cancel := context.WithCancel(ctx)
	w.busy[a.Key] = &operation{Op: Op{Kind: a.Kind, By: a.By, Round: a.Round}, cancel: cancel}
	pod, snapshot := in.Pod, w.snapshot
	w.ops.Add(1)
	go func() {
		defer w.ops.Done()
		defer cancel()
		r := result{action: a}
		r.refuse, r.err = w.do(opCtx, pod, &snapshot, a)
		w.update(func() { w.results = append(w.results, r) })
	}()
}

// absorb takes an operation's outcome; it reports whether the runtime must be
// looked at again.
func (w *worker) absorb(ctx context.Context, pod *v1.Pod, r result) bool {
	if r.retry != "" {
		delete(w.failures, r.retry)
		return false
	}
	a := r.action
	cancelled := w.busy[a.Key] != nil && w.busy[a.Key].cancelled
	delete(w.busy, a.Key)
	key := a.Key
	if a.Kind == StartContainer {
		key = a.Container
	}
	if r.err != nil && cancelled {
		return true
	}
	if r.err != nil {
		w.failed(ctx, pod, key, a, r.err)
		return true
	}
	delete(w.failures, key)
	delete(w.tries, key)
	switch a.Kind {
	case AskAdmission:
		w.admission, w.admitted = r.refuse, r.refuse == nil
		w.fresh = w.admitted
		if r.refuse != nil {
			w.m.cfg.Metrics.Rejected(r.refuse.Reason)
		}
		w.mu.Lock()
		w.holds = w.admitted
		w.mu.Unlock()
		return false
	case PrepareVolumes:
		w.volumesReady = true
		return false
	case StopSandbox:
		w.done["stopped/"+a.ID] = true
	case ResizePod:
		maps.DeleteFunc(w.failures, func(k string, _ Failure) bool { return strings.HasPrefix(k, resizePrefix) })
		w.freed = true
		return false
	case Release, RemoveAll, AnnounceRestart:
		w.done[key] = true
	}
	return true
}

// failed remembers a failure and when to try again.
func (w *worker) failed(ctx context.Context, pod *v1.Pod, key string, a Action, err error) {
	if ctx.Err() != nil || (errors.Is(err, context.Canceled) && w.state >= Stopping) {
		return
	}
	now := w.m.cfg.Clock.Now()
	w.tries[key]++
	f := Failure{Message: err.Error(), Since: now, Retry: now.Add(retryDelay(a.Kind, w.tries[key]))}
	var start *startError
	if errors.As(err, &start) {
		f.Reason, f.Message, f.Image = start.Reason, start.Message, start.Image
		if !start.Retry.IsZero() {
			f.Retry = start.Retry
		}
	}
	if a.Kind == ResizePod && w.failures[key].Message != f.Message {
		w.noteResizeError(pod, f.Message)
	}
	w.failures[key] = f
	var again *RetryError
	waits := errors.As(err, &again)
	if !waits || !again.Quiet {
		w.m.log(ctx, pod).Info("Pod operation failed", "operation", a.Kind, "container", a.Container, "retry", f.Retry.Sub(now), "err", err)
	}
	if waits && again.Ready != nil {
		w.ops.Add(1)
		go func() {
			defer w.ops.Done()
			select {
			case <-again.Ready:
				w.update(func() { w.results = append(w.results, result{retry: key}) })
			case <-ctx.Done():
			case <-w.m.cfg.Clock.After(f.Retry.Sub(now)):
			}
		}()
	}
}

// retryDelay is how long an operation waits after its n-th failure in a row.
func retryDelay(kind ActionKind, n int) time.Duration {
	first, most := time.Second, 10*time.Second
	switch kind {
	case PrepareVolumes:
		first, most = 500*time.Millisecond, 122*time.Second
	case StartContainer:
		return 10 * time.Second
	case ResizePod:
		first, most = time.Second, 30*time.Second
	case Release, RemoveAll, RemoveContainer, StopContainer:
		first, most = 200*time.Millisecond, 30*time.Second
	}
	d := first << min(n-1, 20)
	if d <= 0 || d > most {
		return most
	}
	return d
}
