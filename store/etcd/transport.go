package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// transport checks the configuration and returns how connections are secured; nil: they are not.
func (c Config) transport() (*tls.Config, error) {
	if len(c.Servers) == 0 {
		return nil, errors.New("--etcd-servers: name at least one, such as https://10.0.0.1:2379")
	}
	secure := 0
	for _, server := range c.Servers {
		u, err := parseServer(server)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "https" {
			secure++
		}
	}
	if secure == 0 {
		if c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" {
			return nil, fmt.Errorf("--etcd-servers %s: with --etcd-cafile, --etcd-certfile or --etcd-keyfile they must be https", strings.Join(c.Servers, ","))
		}
		return nil, nil
	}
	if secure < len(c.Servers) {
		return nil, fmt.Errorf("--etcd-servers %s: https and http cannot be mixed", strings.Join(c.Servers, ","))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("--etcd-certfile and --etcd-keyfile: give both or neither")
	}
	for _, f := range []struct{ flag, path string }{{"cafile", c.CAFile}, {"certfile", c.CertFile}, {"keyfile", c.KeyFile}} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			return nil, fmt.Errorf("--etcd-%s: %w", f.flag, err)
		}
	}
	config, err := transport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--etcd-cafile %q, --etcd-certfile %q, --etcd-keyfile %q: %w", c.CAFile, c.CertFile, c.KeyFile, err)
	}
	return config, nil
}

// parseServer reads the URL of an etcd server. What goes there holds every Secret of the cluster, so that only loopback may
// be spoken to in the clear.
func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("--etcd-servers %q: not a URL such as https://10.0.0.1:2379", text)
	}
	if u.Port() == "" {
		return nil, fmt.Errorf("--etcd-servers %q: the port is missing; etcd's is usually 2379", text)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("--etcd-servers %q: everything in the cluster, its Secrets too, would go there unencrypted; use https, or http only on loopback", text)
	}
	return u, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// explain finds out why etcd does not answer: each server is tried by itself, for the client tells only that time has passed.
func (c Config) explain(ctx context.Context, config *tls.Config, err error) error {
	all := []error{fmt.Errorf("reach etcd: %w", err)}
	for _, server := range c.Servers {
		if why := c.try(ctx, config, server); why != nil {
			all = append(all, fmt.Errorf("%s: %w", server, why))
		}
	}
	if len(all) == 1 {
		all = append(all, errors.New("the servers answer, but etcd as a whole does not: it may have lost its majority"))
	}
	return errors.Join(all...)
}

// try connects to one server and returns what is wrong with it.
func (c Config) try(ctx context.Context, config *tls.Config, server string) error {
	u, err := parseServer(server)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fmt.Errorf("%w; start etcd there, or name another with --etcd-servers", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if config == nil {
		return tryPlain(conn)
	}
	config = config.Clone()
	config.ServerName, config.NextProtos = u.Hostname(), []string{"h2"}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return c.explainHandshake(err)
	}
	// A server that wants a certificate says so after the handshake; else the first it sends are HTTP/2's settings.
	if _, err := secured.Read(make([]byte, 1)); err != nil && !timedOut(err) {
		return fmt.Errorf("%w; --etcd-certfile %q and --etcd-keyfile %q must be what its --trusted-ca-file signed, for clients", err, c.CertFile, c.KeyFile)
	}
	return nil
}

func (c Config) explainHandshake(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; --etcd-cafile %q does not hold the authority that signed its certificate", err, c.CAFile)
	case errors.As(err, &host):
		return fmt.Errorf("%w; name it with --etcd-servers as its certificate does", err)
	case errors.As(err, &record), errors.Is(err, io.EOF):
		return fmt.Errorf("%w; it does not speak TLS: start etcd with https in --listen-client-urls", err)
	}
	return err
}

// tryPlain tells a server that speaks TLS from one that speaks HTTP/2 in the clear.
func tryPlain(conn net.Conn) error {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	if _, err := io.WriteString(conn, preface); err != nil {
		return err
	}
	// A frame begins with three bytes of length; the first byte of a TLS alert is 21, which would be a frame of a megabyte.
	const alert = 21
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); timedOut(err) {
		return nil
	} else if err != nil || first[0] == alert || first[0] == 'H' {
		return errors.New("it does not speak plain gRPC; if it speaks TLS, name it with https in --etcd-servers")
	}
	return nil
}

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
