// Package usage measures how much CPU and memory nodes and Pods use, for metrics.k8s.io: it asks the kubelets for their counters
// (/metrics/resource), and tells by how much these have grown.
//
// It costs nothing while nobody asks. The first to ask waits while two samples are taken, a moment apart. After that samples are taken
// every 15 seconds and answers are those of the last, until nobody has asked for some minutes. Each server of a cluster
// measures for itself. A node that does not answer is left out.
package usage

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peapod/peapod/api/resource"
)

// Node is a node to be measured.
type Node struct {
	Name string
	// Ready says that its kubelet is heard of.
	Ready bool
}

// Kubelets leads to kubelets.
type Kubelets interface {
	// Kubelet returns the base address of the node's kubelet and the transport that reaches it.
	Kubelet(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
	// CloseIdle drops the connections that are kept for later.
	CloseIdle()
}

// Config is what a Sampler is made from. All must be set.
type Config struct {
	// Nodes lists the nodes there are.
	Nodes    func(context.Context) ([]Node, error)
	Kubelets Kubelets
}

const (
	// period is the time between two samples: metrics-server's.
	period = 15 * time.Second
	// moment is the time between the first two. It is longer than kubelets share one answer for (1 s).
	moment = 1500 * time.Millisecond
	// linger is for how long samples are taken after the last question. Autoscalers ask every 15 seconds.
	linger = 3 * time.Minute
	// patience bounds how long a kubelet is waited for: metrics-server's. While somebody waits for the first answer, it is haste.
	patience = 10 * time.Second
	haste    = 3 * time.Second
)

// Sampler measures. It is safe for concurrent use.
type Sampler struct {
	config Config
	// ctx ends all.
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu sync.Mutex
	// session is nil while nobody asks; asked is when somebody did last.
	session *session
	asked   time.Time
	closed  bool
}

var _ resource.Usage = (*Sampler)(nil)

// New starts nothing.
func New(c Config) (*Sampler, error) {
	if c.Nodes == nil || c.Kubelets == nil {
		return nil, errors.New("make sampler: Nodes and Kubelets are needed")
	}
	s := &Sampler{config: c}
	s.ctx, s.stop = context.WithCancel(context.Background()) // ended by Close
	return s, nil
}

// Close ends all sampling and waits for it. Who reads after that gets an error.
func (s *Sampler) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
}

// session is one time of sampling. reading is what was measured last; first is closed when there is one, or failed says why there will
// be none.
type session struct {
	reading atomic.Pointer[reading]
	first   chan struct{}
	failed  error
}

// Read implements resource.Usage.
func (s *Sampler) Read(ctx context.Context) (resource.Reading, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, context.Canceled
	}
	s.asked = time.Now()
	if s.session == nil {
		one := &session{first: make(chan struct{})}
		s.session = one
		s.running.Go(func() { s.sample(one) })
	}
	one := s.session
	s.mu.Unlock()
	select {
	case <-one.first:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r := one.reading.Load(); r != nil {
		return r, nil
	}
	return nil, one.failed
}

// sample takes samples until nobody asks for them any more.
func (s *Sampler) sample(one *session) {
	defer s.config.Kubelets.CloseIdle()
	r := &round{config: s.config, silent: map[string]bool{}, nodes: map[string]*node{}}
	err := s.begin(r)
	if err != nil {
		one.failed = err
		s.end(one)
		close(one.first)
		return
	}
	one.reading.Store(r.reading())
	close(one.first)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			s.end(one)
			return
		case <-ticker.C:
		}
		if s.endUnasked(one) {
			return
		}
		r.take(s.ctx, patience)
		one.reading.Store(r.reading())
	}
}

// begin takes the first two samples. Nodes that are not heard of are not waited for.
func (s *Sampler) begin(r *round) error {
	r.hasty = true
	defer func() { r.hasty = false }()
	if err := r.take(s.ctx, haste); err != nil {
		return err
	}
	timer := time.NewTimer(moment)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	return r.take(s.ctx, haste)
}

// end has the next one who asks begin anew.
func (s *Sampler) end(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == one {
		s.session = nil
	}
}

// endUnasked ends the session if nobody has asked for some time, and says whether it did.
func (s *Sampler) endUnasked(one *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked) < linger {
		return false
	}
	if s.session == one {
		s.session = nil
	}
	return true
}
