package nettest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Answer is what a listener says: who it is, and as whom it sees the client.
type Answer struct {
	By, From string
}

// Listen answers each TCP connection and each UDP packet, namelessly. It lives as long as the test.
func Listen(t *testing.T, ns *Namespace, proto, address string) {
	t.Helper()
	ListenAs(t, ns, proto, address, "nobody")
}

// ListenAs answers with a name. A TCP connection gets one answer for each line that comes, and one at its begin.
func ListenAs(t *testing.T, ns *Namespace, proto, address, name string) {
	t.Helper()
	Must(t, ns.Do(func() error {
		if strings.HasPrefix(proto, "udp") {
			c, err := net.ListenPacket(proto, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go answerPackets(c, name)
			return nil
		}
		l, err := net.Listen(proto, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go answerConnections(l, name)
		return nil
	}))
}

func answerConnections(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			for lines := bufio.NewScanner(c); ; {
				if _, err := fmt.Fprintln(c, name, from); err != nil || !lines.Scan() {
					return
				}
			}
		}()
	}
}

func answerPackets(c net.PacketConn, name string) {
	buf := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintln(replier{c, from}, name, from.(*net.UDPAddr).AddrPort().Addr().Unmap()); err != nil {
			return
		}
	}
}

// replier writes packets to one address.
type replier struct {
	net.PacketConn
	to net.Addr
}

func (r replier) Write(b []byte) (int, error) { return r.WriteTo(b, r.to) }

// longest is how long a client waits for an answer that is due, on a machine busy with other tests.
const longest = 30 * time.Second

// Client is a connection, or a UDP socket that keeps its port.
type Client struct {
	net.Conn
	lines *bufio.Reader
}

// Dial connects from a namespace. It is closed with the test.
func Dial(t *testing.T, ns *Namespace, proto, address string) *Client {
	t.Helper()
	c, err := dial(ns, proto, address, longest)
	Must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func dial(ns *Namespace, proto, address string, patience time.Duration) (*Client, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = net.DialTimeout(proto, address, patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Client{c, bufio.NewReader(c)}, nil
}

// Ask sends a line and waits for an answer for no longer than patience.
func (c *Client) Ask(patience time.Duration) (Answer, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return Answer{}, err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return Answer{}, err
	}
	return c.read()
}

func (c *Client) read() (a Answer, err error) {
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return a, err
	}
	_, err = fmt.Sscan(line, &a.By, &a.From)
	return a, err
}

// Ask connects from a namespace, and returns what the listener says.
func Ask(ns *Namespace, proto, address string) (Answer, error) {
	return AskWithin(ns, proto, address, longest)
}

// AskWithin is Ask for clients that expect silence.
func AskWithin(ns *Namespace, proto, address string, patience time.Duration) (Answer, error) {
	c, err := dial(ns, proto, address, patience)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	if strings.HasPrefix(proto, "udp") {
		return c.Ask(patience)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return Answer{}, err
	}
	return c.read()
}

// WantFrom fails the test unless a listener answers and sees the client as want; whatever it sees, if that is empty.
func WantFrom(t *testing.T, what string, ns *Namespace, proto, address, want string) {
	t.Helper()
	got, err := Ask(ns, proto, address)
	if err != nil || want != "" && got.From != want {
		t.Errorf("%s: %s %s is reached from %q, want %q: %v", what, proto, address, got.From, want, err)
	}
}
