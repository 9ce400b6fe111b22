// Package pki keeps the keys and certificates of one cluster in one directory: the three certificate authorities, the key
// that signs service-account tokens, and the certificates of the server, of its kubelet and of its administrator.
//
// Everything is ECDSA P-256. Each certificate lives with its key in one PEM file, written atomically, so that no crash
// leaves a certificate beside another one's key. A file that cannot be read back is an error that names the file and
// the remedy; nothing that exists is ever replaced because it could not be understood.
//
// Certificates are renewed by Run when two thirds of their life have passed, and their users are told (they are the
// provider interfaces of k8s.io/apiserver/pkg/server/dynamiccertificates). An authority is renewed with the key that it
// had, so that what it signed before and what trusts its older certificate go on working.
package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Config says where the keys are and who they are for.
type Config struct {
	// Dir holds the files; it is made, and closed to everybody else (0700).
	Dir string
	// NodeName is the name of the node whose kubelet runs in this process. Without it there is no certificate for one.
	NodeName string
	// Names and IPs are what clients reach the API server by, beyond localhost and the names of the kubernetes Service:
	// the host's name and addresses, and the first address of each service CIDR.
	Names []string
	IPs   []net.IP
	// NodeNames and NodeIPs are what the API server reaches the kubelet by, beyond NodeName and localhost.
	NodeNames []string
	NodeIPs   []net.IP
	// ClusterDomain is the DNS domain of the cluster, cluster.local if empty.
	ClusterDomain string
	// CALife and Life are how long authorities and certificates are valid: 10 years and 1 year if zero.
	CALife, Life time.Duration
	// Clock is the time; the real one if nil.
	Clock clock.WithTicker
}

// PKI is the opened directory. Its methods may be called at the same time.
type PKI struct {
	cfg       Config
	server    *Authority
	client    *Authority
	front     *Authority
	tokenKeys []*ecdsa.PrivateKey
	leaves    []*Certificate
	byName    map[string]*Certificate

	// mu guards kubeconfigs and makes renewals and the writing of kubeconfigs one at a time.
	mu          sync.Mutex
	kubeconfigs []kubeconfig
}

// Names of the certificates, which are also those of their files.
const (
	apiServer              = "apiserver"
	apiServerKubeletClient = "apiserver-kubelet-client"
	admin                  = "admin"
	kubeletServer          = "kubelet-server"
	frontProxyClient       = "front-proxy-client"
)

const (
	defaultCALife = 10 * 365 * 24 * time.Hour
	defaultLife   = 365 * 24 * time.Hour
	// longestSleep bounds how long Run sleeps: timers stand still while a machine is suspended.
	longestSleep = 24 * time.Hour
	// retryAfter is how long Run waits after a renewal failed (a full disk).
	retryAfter = time.Minute
)

// Open reads the directory and makes what is not there. Certificates that are due, or that name other hosts than cfg,
// are issued anew.
func Open(cfg Config) (*PKI, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open PKI: no directory given")
	}
	cfg.ClusterDomain = orDefault(cfg.ClusterDomain, "cluster.local")
	cfg.CALife = orDefault(cfg.CALife, defaultCALife)
	cfg.Life = orDefault(cfg.Life, defaultLife)
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make PKI directory: %w", err)
	}
	if err := os.Chmod(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("close PKI directory to others: %w", err)
	}
	p := &PKI{cfg: cfg, byName: map[string]*Certificate{}}
	var err error
	if p.server, err = p.openAuthority(serverCA, "peapod-server-ca"); err != nil {
		return nil, err
	}
	if p.client, err = p.openAuthority(clientCA, "peapod-client-ca"); err != nil {
		return nil, err
	}
	if p.front, err = p.openAuthority(frontProxyCA, "peapod-front-proxy-ca"); err != nil {
		return nil, err
	}
	if p.tokenKeys, err = openKeys(p.path(accountKeys)); err != nil {
		return nil, err
	}
	for _, w := range p.wanted() {
		c, err := p.openCertificate(w)
		if err != nil {
			return nil, err
		}
		p.leaves = append(p.leaves, c)
		p.byName[w.name] = c
	}
	return p, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (p *PKI) path(name string) string { return filepath.Join(p.cfg.Dir, name+".pem") }

// wanted lists the certificates of this process.
func (p *PKI) wanted() []wanted {
	c := p.cfg
	local := []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	list := []wanted{
		{name: apiServer, ca: p.server, commonName: "kube-apiserver", usage: x509.ExtKeyUsageServerAuth,
			names: union([]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc." + c.ClusterDomain, "localhost"}, c.Names),
			ips: append(local, c.IPs...), chain: true},
		{name: apiServerKubeletClient, ca: p.client, commonName: "kube-apiserver-kubelet-client",
			groups: []string{"system:masters"}, usage: x509.ExtKeyUsageClientAuth},
		{name: admin, ca: p.client, commonName: "kubernetes-admin",
			groups: []string{"system:masters"}, usage: x509.ExtKeyUsageClientAuth},
		{name: frontProxyClient, ca: p.front, commonName: frontProxyClient, usage: x509.ExtKeyUsageClientAuth},
	}
	if c.NodeName == "" {
		return list
	}
	return append(list,
		wanted{name: kubeletServer, ca: p.server, commonName: "system:node:" + c.NodeName, groups: []string{"system:nodes"},
			usage: x509.ExtKeyUsageServerAuth, names: union([]string{c.NodeName, "localhost"}, c.NodeNames),
			ips: append(local, c.NodeIPs...)})
}

// ServerCA signs what servers show: clients trust it, and it is what kube-root-ca.crt holds.
func (p *PKI) ServerCA() *Authority { return p.server }

// ClientCA signs what clients show to the API server and to kubelets.
func (p *PKI) ClientCA() *Authority { return p.client }

// FrontProxyCA signs what the API server shows to servers behind it, and nothing else: who has such a certificate is believed whom it
// speaks for.
func (p *PKI) FrontProxyCA() *Authority { return p.front }

// FrontProxyClient is what the API server shows to servers behind it.
func (p *PKI) FrontProxyClient() *Certificate { return p.byName[frontProxyClient] }

// FrontProxyName is the name in that certificate.
const FrontProxyName = frontProxyClient

// APIServer is the certificate that the API server serves with.
func (p *PKI) APIServer() *Certificate { return p.byName[apiServer] }

// APIServerKubeletClient is what the API server shows to kubelets.
func (p *PKI) APIServerKubeletClient() *Certificate { return p.byName[apiServerKubeletClient] }

// Admin is the administrator's, a member of system:masters.
func (p *PKI) Admin() *Certificate { return p.byName[admin] }

// KubeletServer is the certificate that this process's kubelet serves with; nil without Config.NodeName.
func (p *PKI) KubeletServer() *Certificate { return p.byName[kubeletServer] }

// TokenKeys returns the service-account keys: the first signs, all of them verify.
func (p *PKI) TokenKeys() []*ecdsa.PrivateKey { return p.tokenKeys }

// OnDemand returns what shows a client certificate that is made when it is first asked for, and again when it is due. It is kept in
// memory alone.
func (p *PKI) OnDemand(commonName string, groups ...string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	w := wanted{name: commonName, ca: p.client, commonName: commonName, groups: groups, usage: x509.ExtKeyUsageClientAuth}
	var mu sync.Mutex
	var now *pair
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if now == nil || !renewalTime(now.leaf).After(p.cfg.Clock.Now()) {
			next, err := p.issue(w, p.cfg.Life)
			if err != nil {
				return nil, err
			}
			now = next
		}
		return now.tls, nil
	}
}

// Run renews what falls due until ctx ends.
func (p *PKI) Run(ctx context.Context) error {
	log := klog.FromContext(ctx)
	for {
		wait := min(p.nextRenewal().Sub(p.cfg.Clock.Now()), longestSleep)
		if wait <= 0 {
			if err := p.renewDue(log); err != nil {
				log.Error(err, "Failed to renew certificates, will try again", "after", retryAfter)
				wait = retryAfter
			} else {
				continue
			}
		}
		timer := p.cfg.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

// nextRenewal is when the first of all certificates falls due.
func (p *PKI) nextRenewal() time.Time {
	next := p.server.due()
	for _, a := range []*Authority{p.client, p.front} {
		if t := a.due(); t.Before(next) {
			next = t
		}
	}
	for _, c := range p.leaves {
		if t := c.due(); t.Before(next) {
			next = t
		}
	}
	return next
}

// renewDue renews what has fallen due, authorities first, and rewrites the kubeconfigs. What fails does not keep the
// others from being renewed.
func (p *PKI) renewDue(log klog.Logger) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	now := p.cfg.Clock.Now()
	for _, a := range []*Authority{p.server, p.client, p.front} {
		if a.due().After(now) {
			continue
		}
		if err := p.renewAuthority(a); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Info("Renewed certificate authority", "name", a.name, "until", a.current().NotAfter)
	}
	for _, c := range p.leaves {
		if c.due().After(now) {
			continue
		}
		if err := p.renewCertificate(c); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Info("Renewed certificate", "name", c.want.name, "until", c.Leaf().NotAfter)
	}
	for _, k := range p.kubeconfigs {
		if err := p.writeKubeconfig(k); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func union(lists ...[]string) []string {
	var all []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, s := range list {
			if s != "" && !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	return all
}
