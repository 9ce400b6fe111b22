package cluster

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/testca"
)

// etcdEnv has this program be an etcd: its value is the directory of its data and certificates, etcdIPEnv its address.
const etcdEnv, etcdIPEnv = "PEAPOD_TEST_ETCD", "PEAPOD_TEST_ETCD_IP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(etcdEnv); dir != "" {
		if err := serveEtcd(dir, os.Getenv(etcdIPEnv)); err != nil {
			fmt.Fprintln(os.Stderr, "etcd:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveEtcd is an etcd that syncs what it acknowledges, until it is killed. It says on its output when it is ready.
func serveEtcd(dir, ip string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = filepath.Join(dir, "data"), "error"
	at := func(port string) []url.URL {
		return []url.URL{{Scheme: "https", Host: net.JoinHostPort(ip, port)}}
	}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = at("2379"), at("2380")
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	secured := transport.TLSInfo{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		TrustedCAFile: filepath.Join(dir, "ca.pem"), ClientCertAuth: true}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = secured, secured
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-e.Server.ReadyNotify():
		fmt.Println("ready")
	case err := <-e.Err():
		return err
	}
	return <-e.Err()
}

// etcd is a machine with an etcd of one member, which can be killed and started again.
type etcd struct {
	m    *machine
	dir  string
	proc *exec.Cmd
}

func newEtcd(t *testing.T, w *wire, binary string, number int) *etcd {
	t.Helper()
	e := &etcd{m: newMachine(t, w, binary, "etcd", number), dir: t.TempDir()}
	makeCertificates(t, e.dir, e.m.ip)
	e.start()
	t.Cleanup(e.kill)
	return e
}

// flags are what a server is started with to use it.
func (e *etcd) flags() []string {
	return []string{"--etcd-servers", "https://" + e.m.ip + ":2379", "--etcd-cafile", filepath.Join(e.dir, "ca.pem"),
		"--etcd-certfile", filepath.Join(e.dir, "cert.pem"), "--etcd-keyfile", filepath.Join(e.dir, "key.pem")}
}

func (e *etcd) start() {
	t := e.m.t
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	e.proc = e.m.command(context.Background(), self)
	e.proc.Env = append(e.proc.Env, etcdEnv+"="+e.dir, etcdIPEnv+"="+e.m.ip)
	log, err := e.m.log.Open()
	must(t, err)
	defer log.Close()
	e.proc.Stderr = log
	out, err := e.proc.StdoutPipe()
	must(t, err)
	must(t, e.proc.Start())
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
}

// kill ends it without warning. It may be called more than once.
func (e *etcd) kill() {
	if e.proc == nil {
		return
	}
	if err := e.proc.Process.Signal(unix.SIGKILL); err != nil {
		e.m.t.Error(err)
	}
	_ = e.proc.Wait() // it was killed
	e.proc = nil
}

// makeCertificates makes an authority and one certificate for all: of the server at ip, and of its clients.
func makeCertificates(t *testing.T, dir, ip string) {
	t.Helper()
	ca := testca.New(t, "etcd CA")
	cert, key := ca.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	for name, content := range map[string][]byte{"ca.pem": ca.PEM, "cert.pem": cert, "key.pem": key} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}
