package linger

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

const wait = time.Minute

// pair is a connection between a server and a client.
func pair(t *testing.T) (l *Listener, server net.Conn, client *net.TCPConn) {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = Listen(plain)
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialed.Close()
		server.Close()
		l.Close()
	})
	if err := errors.Join(dialed.SetDeadline(time.Now().Add(wait)), server.SetDeadline(time.Now().Add(wait))); err != nil {
		t.Fatal(err)
	}
	return l, server, dialed.(*net.TCPConn)
}

// A client that has said something that nobody read still gets all that was sent to it, and the end.
func TestClientGetsAll(t *testing.T) {
	_, server, client := pair(t)
	// The last of it is still with the server when that closes: the client's window is full.
	if err := client.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := server.Write(text)
		sent <- errors.Join(err, server.Close())
	}()
	got := make([]byte, 1)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(append(got, rest...), text) {
		t.Errorf("the client got %d bytes of %d, and %v", 1+len(rest), len(text), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	// It may still speak, without being reset.
	if _, err := client.Write([]byte("ping")); err != nil {
		t.Error(err)
	}
}

// For the server, closed is closed.
func TestCloseEndsWhatWaits(t *testing.T) {
	_, server, client := pair(t)
	read, written := make(chan error, 1), make(chan error, 1)
	started := make(chan struct{}, 2)
	go func() {
		started <- struct{}{}
		_, err := server.Read(make([]byte, 1))
		read <- err
	}()
	go func() {
		started <- struct{}{}
		_, err := server.Write(make([]byte, 64<<20)) // nobody takes that much
		written <- err
	}()
	<-started
	<-started
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for what, ended := range map[string]chan error{"read": read, "write": written} {
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s ended with %v", what, err)
			}
		case <-time.After(wait):
			t.Fatalf("a %s outlives its connection", what)
		}
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := server.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("deadline: %v", err)
	}
	if err := server.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	_ = client
}

// The end of the listener is the end of all that lingers.
func TestListenerClosesAll(t *testing.T) {
	l, server, client := pair(t)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit / 2):
		t.Fatal("a connection lingers on without its listener")
	}
	if n, err := client.Read(make([]byte, 1)); err == nil {
		t.Errorf("the client read %d bytes", n)
	}
	if len(l.lingering) > 0 {
		t.Errorf("%d connections linger", len(l.lingering))
	}
}
