package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

func open(t *testing.T, cfg Config) *PKI {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFiles: everything is its owner's alone, and comes back as it was.
func TestFiles(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "pki"), NodeName: "n1", Names: []string{"host"}, IPs: []net.IP{net.IPv4(10, 96, 0, 1)}}
	first := open(t, cfg)
	info, err := os.Stat(cfg.Dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, %v", info.Mode(), err)
	}
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*"))
	if err != nil || len(files) != 9 {
		t.Errorf("files %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f, info.Mode(), err)
		}
	}
	again := open(t, cfg)
	for i, c := range first.leaves {
		was, key := c.CurrentCertKeyContent()
		is, sameKey := again.leaves[i].CurrentCertKeyContent()
		if !bytes.Equal(was, is) || !bytes.Equal(key, sameKey) {
			t.Errorf("%s was issued anew at the second start", c.Name())
		}
	}
	if !first.TokenKeys()[0].Equal(again.TokenKeys()[0]) {
		t.Error("the token key changed at the second start")
	}
	// A new name of the host is taken into the certificate.
	cfg.Names = []string{"other"}
	if err := open(t, cfg).APIServer().Leaf().VerifyHostname("other"); err != nil {
		t.Error(err)
	}
}

// TestTLS: the pairs that talk to each other believe each other, and nobody else.
func TestTLS(t *testing.T) {
	p := open(t, Config{Dir: t.TempDir(), NodeName: "n1", IPs: []net.IP{net.IPv4(10, 96, 0, 1)}})
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "10.96.0.1"} {
		if err := p.APIServer().Leaf().VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if err := p.APIServer().Leaf().VerifyHostname("n1"); err == nil {
		t.Error("the API server's certificate is good for a node")
	}
	servers := x509.NewCertPool()
	servers.AppendCertsFromPEM(p.ServerCA().CurrentCABundleContent())
	clients, _ := p.ClientCA().VerifyOptions()
	handshake := func(server, client *Certificate, name string) error {
		a, b := net.Pipe()
		s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{*server.TLS()}, ClientCAs: clients.Roots, ClientAuth: tls.RequireAndVerifyClientCert})
		c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{*client.TLS()}, RootCAs: servers, ServerName: name})
		served := make(chan error, 1)
		go func() {
			served <- s.Handshake()
			a.Close()
		}()
		err := c.Handshake()
		b.Close()
		return errors.Join(err, <-served)
	}
	if err := handshake(p.APIServer(), p.Admin(), "kubernetes"); err != nil {
		t.Error(err)
	}
	if err := handshake(p.KubeletServer(), p.APIServerKubeletClient(), "n1"); err != nil {
		t.Error(err)
	}
	if handshake(p.APIServer(), p.KubeletServer(), "kubernetes") == nil {
		t.Error("a serving certificate was taken for a client's")
	}
	if handshake(p.Admin(), p.Admin(), "kubernetes") == nil {
		t.Error("a client's certificate was taken for a server's")
	}
}

// TestDamage: what cannot be read is reported with its name and what to do, and left as it is.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"half":      func(b []byte) []byte { return b[:len(b)/2] },
		"garbage":   func([]byte) []byte { return []byte("not PEM at all") },
		"other key": func(b []byte) []byte { return append(b[:len(b):len(b)], b...) },
		"trailing":  func(b []byte) []byte { return append(b[:len(b):len(b)], "more"...) },
	} {
		for _, file := range []string{"server-ca.pem", "client-ca.pem", "service-account.pem", "apiserver.pem"} {
			if name == "other key" && file == "service-account.pem" {
				continue // several keys are fine there
			}
			t.Run(name+" "+file, func(t *testing.T) {
				dir := t.TempDir()
				open(t, Config{Dir: dir})
				path := filepath.Join(dir, file)
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				bad := damage(content)
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err = Open(Config{Dir: dir})
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), path) || corrupt.Remedy == "" {
					t.Errorf("got %v", err)
				}
				if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, bad) {
					t.Errorf("the file was changed: %v", err)
				}
			})
		}
	}
}

// told is a listener.
type told chan struct{}

func (l told) Enqueue() {
	select {
	case l <- struct{}{}:
	default:
	}
}

// tellingClock is a fake clock that says when a timer has been set.
type tellingClock struct {
	*clocktesting.FakeClock
	timers chan struct{}
}

func newTellingClock() *tellingClock {
	return &tellingClock{clocktesting.NewFakeClock(time.Now()), make(chan struct{}, 100)}
}

func (c *tellingClock) NewTimer(d time.Duration) clock.Timer {
	timer := c.FakeClock.NewTimer(d)
	c.timers <- struct{}{}
	return timer
}

// awaitTimer waits until Run, which has one timer at a time, has set the next.
func (c *tellingClock) awaitTimer(t *testing.T) {
	t.Helper()
	select {
	case <-c.timers:
	case <-time.After(time.Minute):
		t.Fatal("no timer is set")
	}
}

// TestRenewal: with two thirds of their life gone, certificates and then authorities are renewed in the running process.
func TestRenewal(t *testing.T) {
	clock := newTellingClock()
	dir := t.TempDir()
	p := open(t, Config{Dir: dir, NodeName: "n1", Life: 3 * time.Hour, CALife: 9 * time.Hour, Clock: clock})
	kubeconfig := filepath.Join(dir, "out", "admin.kubeconfig")
	if err := p.WriteKubeconfig(kubeconfig, "https://127.0.0.1:6443"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(kubeconfig); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig has mode %v, %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	serving, authority := make(told, 1), make(told, 1)
	p.APIServer().AddListener(serving)
	p.ServerCA().AddListener(authority)
	firstCA := p.ServerCA().current()
	step := func(d time.Duration, l told) {
		t.Helper()
		clock.awaitTimer(t)
		clock.Step(d)
		select {
		case <-l:
		case <-time.After(time.Minute):
			t.Fatal("nobody was told of a renewal")
		}
	}
	before := p.APIServer().Leaf()
	step(2*time.Hour, serving)
	after := p.APIServer().Leaf()
	if !after.NotAfter.After(before.NotAfter) || after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		t.Errorf("renewed until %v, before it was %v", after.NotAfter, before.NotAfter)
	}
	step(2*time.Hour, serving)
	after = p.APIServer().Leaf()
	step(2*time.Hour, authority)
	// What trusts the first certificate of the authority goes on doing so, and the other way round.
	for _, root := range []*x509.Certificate{firstCA, p.ServerCA().current()} {
		pool := x509.NewCertPool()
		pool.AddCert(root)
		if _, err := after.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: clock.Now()}); err != nil {
			t.Error(err)
		}
	}
	if p.ServerCA().current().Equal(firstCA) {
		t.Error("the authority was not renewed")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ended <- nil
	// The kubeconfig has followed.
	cfg, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := p.Admin().CurrentCertKeyContent()
	if !bytes.Equal(cfg.AuthInfos["peapod"].ClientCertificateData, cert) ||
		!bytes.Equal(cfg.Clusters["peapod"].CertificateAuthorityData, p.ServerCA().CurrentCABundleContent()) {
		t.Error("the kubeconfig was not rewritten")
	}
}

// TestRenewalFails: a disk that takes nothing is tried again, and what is there goes on being used.
func TestRenewalFails(t *testing.T) {
	clock := newTellingClock()
	dir := filepath.Join(t.TempDir(), "pki")
	p := open(t, Config{Dir: dir, Life: 3 * time.Hour, Clock: clock})
	before := p.APIServer().Leaf()
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	listener := make(told, 1)
	p.APIServer().AddListener(listener)
	clock.awaitTimer(t)
	clock.Step(2 * time.Hour)
	clock.awaitTimer(t) // until it has failed and set the timer for the next attempt
	if !p.APIServer().Leaf().Equal(before) {
		t.Error("a certificate that could not be stored is in use")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	clock.Step(retryAfter)
	select {
	case <-listener:
	case <-time.After(time.Minute):
		t.Fatal("nobody was told of a renewal")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOnDemand: a certificate that is kept nowhere is made once, is for whom it says, and is made anew when it is due.
func TestOnDemand(t *testing.T) {
	dir := t.TempDir()
	clock := newTellingClock()
	p := open(t, Config{Dir: dir, Clock: clock})
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	shown := p.OnDemand("somebody", "some")
	leaf := func() *x509.Certificate {
		t.Helper()
		c, err := shown(nil)
		if err != nil {
			t.Fatal(err)
		}
		options, _ := p.ClientCA().VerifyOptions()
		options.CurrentTime = clock.Now()
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if _, err := c.Leaf.Verify(options); err != nil {
			t.Error(err)
		}
		return c.Leaf
	}
	first := leaf()
	if first.Subject.CommonName != "somebody" || len(first.Subject.Organization) != 1 || first.Subject.Organization[0] != "some" {
		t.Errorf("it is for %v", first.Subject)
	}
	if leaf() != first {
		t.Error("it is made each time that it is asked for")
	}
	clock.Step(defaultLife * 9 / 10)
	if next := leaf(); next == first || !next.NotAfter.After(first.NotAfter) {
		t.Errorf("when it was due it was %v", next.NotAfter)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("there are %d files, were %d: %v", len(after), len(before), err)
	}
}
