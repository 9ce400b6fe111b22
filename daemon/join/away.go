package join

import (
	"context"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

// searchPause is how long to wait before servers are tried again that have refused at once.
const searchPause = 250 * time.Millisecond

// Run looks for the servers while none can be reached, until ctx ends. Meanwhile, requests that go through Await wait for it: nobody has
// to try again after a time that grows with the outage, and all go on within moments of its end. It costs nothing while the servers are
// there.
func (s *Servers) Run(ctx context.Context) {
	s.mu.Lock()
	s.searching = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.searching = false
		s.mu.Unlock()
		s.found()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lost:
			s.search(ctx)
		}
	}
}

// search tries the servers until one answers or ctx ends.
func (s *Servers) search(ctx context.Context) {
	log, since := klog.FromContext(ctx), time.Now()
	for told := false; ; {
		began := time.Now()
		conn, err := s.dialAny(ctx)
		if err == nil {
			_ = conn.Close() // nothing was sent
			log.Info("A server can be reached again", "server", conn.RemoteAddr().String(), "after", time.Since(since).Round(time.Millisecond))
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			log.Info("No server can be reached; requests wait until one can", "err", err)
			told = true
		}
		timer := time.NewTimer(searchPause - time.Since(began))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// missed notes that no server could be reached.
func (s *Servers) missed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.searching && s.back == nil {
		s.back = make(chan struct{})
		s.lost <- struct{}{} // has room: there is one search at a time
	}
}

// found has waiting requests go on.
func (s *Servers) found() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back == nil {
		return
	}
	close(s.back)
	s.back = nil
	select {
	case <-s.lost: // found before the search began
	default:
	}
}

// Await passes a client's requests on to next: at once, or while Run looks for the servers, as soon as it has found one. A request whose
// context ends before that fails with the reason.
func (s *Servers) Await(next http.RoundTripper) http.RoundTripper { return &awaiting{s, next} }

type awaiting struct {
	servers *Servers
	next    http.RoundTripper
}

func (a *awaiting) RoundTrip(r *http.Request) (*http.Response, error) {
	a.servers.mu.Lock()
	back := a.servers.back
	a.servers.mu.Unlock()
	if back != nil {
		select {
		case <-back:
		case <-r.Context().Done():
			if r.Body != nil {
				_ = r.Body.Close() // of bytes in memory; the interface asks for it
			}
			return nil, context.Cause(r.Context())
		}
	}
	return a.next.RoundTrip(r)
}

// WrappedRoundTripper is what those ask for who look for the transport beneath.
func (a *awaiting) WrappedRoundTripper() http.RoundTripper { return a.next }
