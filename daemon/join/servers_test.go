package join

import (
	"net"
	"slices"
	"testing"
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
