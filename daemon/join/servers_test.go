package join

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen is a server at an address of its own; closed, it is one that has died.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // some are closed before
	return l
}

func TestServersFailOver(t *testing.T) {
	one, two, three := listen(t), listen(t), listen(t)
	at := func(l net.Listener) string { return l.Addr().String() }
	s := NewServers(at(one), []string{at(two)})
	reach := func(want net.Listener) {
		t.Helper()
		conn, err := s.Dial(t.Context(), "tcp", at(one))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != at(want) {
			t.Errorf("reached %s, want %s", got, at(want))
		}
	}
	reach(one)
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	reach(two)
	s.Set([]string{at(two), at(three)})
	reach(two) // it answered the last time
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	reach(three)
	// A server that is no more is forgotten, the one that the agent was told of is not.
	s.Set([]string{at(three)})
	if want := []string{at(three), at(one)}; !slices.Equal(s.list, want) {
		t.Errorf("the servers are %v, want %v", s.list, want)
	}
	if err := three.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Dial(t.Context(), "tcp", at(one)); err == nil {
		t.Error("nobody is there, and somebody answers")
	}
}

// While no server can be reached, requests wait; they go on when one can, and those that are given up end.
func TestRequestsWaitForServers(t *testing.T) {
	l := listen(t)
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := NewServers(at, nil)
	transport := &http.Transport{DialContext: s.Dial}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: s.Await(checked(func(r *http.Request) (*http.Response, error) {
		if isAwaited(s) {
			t.Error("a request is passed on while no server can be reached")
		}
		return transport.RoundTrip(r)
	}))}
	get := func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	// Nobody looks for servers yet, so that nobody waits.
	for range 2 {
		if err := get(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("without a search: %v", err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	var first error
	for first == nil || !isAwaited(s) { // the search may begin after a request
		if first = get(t.Context()); first == nil {
			t.Fatal("nobody is there, and somebody answers")
		}
	}
	impatient, giveUp := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	giveUp(enough)
	if err := get(impatient); !errors.Is(err, enough) {
		t.Errorf("a request that is given up ends with %v", err)
	}
	answers := make(chan error, 3)
	for range cap(answers) {
		go func() { answers <- get(t.Context()) }()
	}
	again, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	defer server.Close()
	go func() { _ = server.Serve(again) }() // ends with Close
	for range cap(answers) {
		select {
		case err := <-answers:
			if err != nil {
				t.Errorf("a request that waited: %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("requests wait for a server that is there")
		}
	}
	// One that waits when the search ends fails as it would have without.
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	transport.CloseIdleConnections()
	for !isAwaited(s) {
		if err := get(t.Context()); err == nil {
			t.Fatal("nobody is there, and somebody answers")
		}
	}
	go func() { answers <- get(t.Context()) }()
	stop()
	<-ended
	if err := <-answers; !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the search: %v", err)
	}
}

// checked is a transport.
type checked func(*http.Request) (*http.Response, error)

func (c checked) RoundTrip(r *http.Request) (*http.Response, error) { return c(r) }

func isAwaited(s *Servers) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.back != nil
}

// A connection whose other end is cut off does not live for a quarter of an hour.
func TestConnectionsAreGivenUp(t *testing.T) {
	l := listen(t)
	conn, err := NewServers(l.Addr().String(), nil).Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[int]int{unix.TCP_USER_TIMEOUT: 10_000, unix.TCP_KEEPIDLE: 10, unix.TCP_KEEPINTVL: 5, unix.TCP_KEEPCNT: 2} {
		var got int
		var err error
		if e := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		if got != want {
			t.Errorf("socket option %d is %d, want %d", name, got, want)
		}
	}
}
