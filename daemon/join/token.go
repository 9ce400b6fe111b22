// Package join is how a machine becomes a node of a cluster that runs elsewhere, and stays one: the token that it brings,
// the trust that the token gives it in the server, and the certificates that it asks for and renews.
package join

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/peapod/peapod/apiserver/pki"
)

// Token is what `peapod token create` prints: a Kubernetes bootstrap token, and the pin of the authority that signs the
// server's certificate, by which the machine knows that it talks to no other.
type Token struct {
	// ID and Secret are the bootstrap token: six and sixteen characters.
	ID, Secret string
	// Pin is the SHA-256 of the authority's public key, in hexadecimal digits.
	Pin string
}

var tokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})\.([0-9a-f]{64})$`)

// ParseToken reads a token. Its error does not quote it.
func ParseToken(text string) (Token, error) {
	p := tokenForm.FindStringSubmatch(text)
	if p == nil {
		return Token{}, errors.New("the token is not one that `peapod token create` prints: six characters, sixteen, and 64 hexadecimal digits, with dots between")
	}
	return Token{p[1], p[2], p[3]}, nil
}

// String is the token as it is typed.
func (t Token) String() string { return t.Bearer() + "." + t.Pin }

// Bearer is the part that the API server is shown.
func (t Token) Bearer() string { return t.ID + "." + t.Secret }

// ParseServer reads the address of a server.
func ParseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("--server %q: not an address such as https://10.0.0.1:6443", text)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	u.Path = ""
	return u, nil
}

// MistrustError says that what answers is not the server that the token names.
type MistrustError struct{ Err error }

func (e *MistrustError) Error() string { return e.Err.Error() }
func (e *MistrustError) Unwrap() error { return e.Err }

// Trust asks the server for its certificate and returns its authority's, PEM, if that is the one of the pin. Nothing is
// sent to a server that is not believed.
func Trust(ctx context.Context, server *url.URL, pin string) ([]byte, error) {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		// What is shown is verified below, by the pin.
		Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, ServerName: server.Hostname()}}
	conn, err := dialer.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return nil, fmt.Errorf("reach server %s: %w", server, err)
	}
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates
	ca, err := pki.FindPinned(shown, pin, server.Hostname())
	if err != nil {
		return nil, &MistrustError{fmt.Errorf("trust server %s: %w", server, err)}
	}
	return ca, nil
}
