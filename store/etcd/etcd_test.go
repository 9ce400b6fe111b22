package etcd

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"

	"github.com/peapod/peapod/internal/testca"
)

func TestServersThatCannotBe(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "--etcd-servers: name at least one"},
		{Config{Servers: []string{"10.0.0.1:2379"}}, `--etcd-servers "10.0.0.1:2379": not a URL`},
		{Config{Servers: []string{"https://10.0.0.1"}}, "the port is missing"},
		{Config{Servers: []string{"https://10.0.0.1:2379/x"}}, "not a URL"},
		{Config{Servers: []string{"http://10.0.0.1:2379"}}, "unencrypted; use https"},
		{Config{Servers: []string{"http://127.0.0.1:1", "https://127.0.0.1:2"}}, "cannot be mixed"},
		{Config{Servers: []string{"http://127.0.0.1:1"}, CAFile: "ca"}, "must be https"},
		{Config{Servers: []string{"https://127.0.0.1:1"}, CertFile: "c"}, "give both or neither"},
		{Config{Servers: []string{"https://127.0.0.1:1"}, CAFile: missing}, "--etcd-cafile: open " + missing},
	} {
		_, err := Open(t.Context(), test.cfg)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %q", test.cfg, err, test.want)
		}
	}
}

// signed is an authority and what it signed for 127.0.0.1, for servers and clients alike.
type signed struct{ ca, cert, key string }

func newSigned(t *testing.T) signed {
	t.Helper()
	dir := t.TempDir()
	s := signed{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	ca := testca.New(t, dir)
	cert, key := ca.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	for path, content := range map[string][]byte{s.ca: ca.PEM, s.cert: cert, s.key: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestTransport: an etcd that wants certificates is reached with the right ones, and each wrong way says what is wrong.
func TestTransport(t *testing.T) {
	ours, others := newSigned(t), newSigned(t)
	cfg := testserver.NewTestConfig(t)
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: ours.cert, KeyFile: ours.key, TrustedCAFile: ours.ca, ClientCertAuth: true}
	for _, urls := range []*string{&cfg.ListenClientUrls[0].Scheme, &cfg.AdvertiseClientUrls[0].Scheme} {
		*urls = "https"
	}
	port := cfg.ListenClientUrls[0].Port()
	cfg.ListenClientUrls[0].Host, cfg.AdvertiseClientUrls[0].Host = "127.0.0.1:"+port, "127.0.0.1:"+port
	testserver.RunEtcd(t, cfg)
	plain := testserver.RunEtcd(t, nil).Endpoints()[0]
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "https://" + free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	server := "https://127.0.0.1:" + port
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"right":               {Config{Servers: []string{server}, CAFile: ours.ca, CertFile: ours.cert, KeyFile: ours.key}, ""},
		"one of two is up":    {Config{Servers: []string{nobody, server}, CAFile: ours.ca, CertFile: ours.cert, KeyFile: ours.key}, ""},
		"another authority":   {Config{Servers: []string{server}, CAFile: others.ca, CertFile: ours.cert, KeyFile: ours.key}, "does not hold the authority that signed its certificate"},
		"another host":        {Config{Servers: []string{"https://localhost:" + port}, CAFile: ours.ca, CertFile: ours.cert, KeyFile: ours.key}, "name it with --etcd-servers as its certificate does"},
		"no certificate":      {Config{Servers: []string{server}, CAFile: ours.ca}, "must be what its --trusted-ca-file signed"},
		"another certificate": {Config{Servers: []string{server}, CAFile: ours.ca, CertFile: others.cert, KeyFile: others.key}, "must be what its --trusted-ca-file signed"},
		"TLS to plain":        {Config{Servers: []string{strings.Replace(plain, "http:", "https:", 1)}, CAFile: ours.ca}, "it does not speak TLS"},
		"plain to TLS":        {Config{Servers: []string{"http://127.0.0.1:" + port}}, "it does not speak plain gRPC"},
		"nobody":              {Config{Servers: []string{nobody}, CAFile: ours.ca}, "start etcd there, or name another with --etcd-servers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(context.Background(), test.cfg)
			if err == nil {
				if closeErr := s.Close(); closeErr != nil {
					t.Error(closeErr)
				}
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestReady: a store whose etcd goes says so, and watches that it had end with it.
func TestReady(t *testing.T) {
	cfg := testserver.NewTestConfig(t)
	etcd := newProcess(t, cfg)
	s, err := Open(t.Context(), Config{Servers: etcd.servers()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	pods, _, err := s.Decorator()(podConfig(testCodec(), nil), "/pods/", podKey, newPod, newPodList, podAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	etcd.stop()
	await(t, "not ready", func() bool {
		err := s.Ready()
		return err != nil && strings.HasPrefix(err.Error(), "error getting data from etcd: ")
	})
	etcd.start()
	await(t, "ready again", func() bool { return s.Ready() == nil })
	// What was there serves on.
	pod := &example.Pod{}
	pod.Name, pod.Namespace = "a", "b"
	if err := pods.Create(t.Context(), "/pods/b/a", pod, &example.Pod{}, 0); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Ready(); err == nil {
		t.Error("a closed store says that it is ready")
	}
	if err := pods.Get(t.Context(), "/pods/b/a", storage.GetOptions{}, &example.Pod{}); err == nil {
		t.Error("a closed store answers")
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// await asks until it is so.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}
