package aggregation_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestUpgrade: a connection is handed over both ways, and the server behind knows whose it is, whatever the client says of that.
func TestUpgrade(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	serve(t, s, b)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA.CurrentCABundleContent())
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "GET %s/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin\r\nConnection: Upgrade, X-Remote-User\r\n"+
		"Upgrade: echo\r\nX-Remote-User: eve\r\nX-Remote-Extra-Scopes: all\r\n\r\n", flunders)
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("answer is %d, %v", resp.StatusCode, resp.Header)
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if line, err := answers.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("heard %q, %v", line, err)
	}
	seen := b.requests()
	if len(seen) != 1 {
		t.Fatalf("%d requests arrived, want 1", len(seen))
	}
	h := seen[0].Header
	if got := h["X-Remote-User"]; len(got) != 1 || got[0] != "admin" {
		t.Errorf("it is %q's", got)
	}
	if h.Get("Connection") != "Upgrade" || h.Get("Authorization") != "" || h.Get("X-Remote-Extra-Scopes") != "" {
		t.Errorf("these headers arrived: %v", h)
	}
}
