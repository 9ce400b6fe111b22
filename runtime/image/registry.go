package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	dockerDomain = "docker.io"
	dockerHost   = "registry-1.docker.io"
)

// resolver talks to the registries for one pull with the credentials of its caller. closeIdle gives back its connections.
func (s *Store) resolver(ctx context.Context, domain string, auth *runtimeapi.AuthConfig) (_ remotes.Resolver, closeIdle func(), err error) {
	user, password, err := credentials(auth)
	if err != nil {
		return nil, nil, err
	}
	// Credentials go to the registry that the image names, and to no mirror of it.
	creds := func(host string) (string, string, error) {
		if !sameRegistry(host, domain) || !authIsFor(auth, host) {
			return "", "", nil
		}
		return user, password, nil
	}
	var clients []*http.Client
	hosts := func(host string) ([]docker.RegistryHost, error) {
		list, err := s.registryHosts(ctx, host, creds, auth)
		for _, h := range list {
			clients = append(clients, h.Client)
		}
		return list, err
	}
	closeIdle = func() {
		for _, c := range clients {
			c.CloseIdleConnections()
		}
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts}), closeIdle, nil
}

type credentialFunc func(host string) (string, string, error)

func (s *Store) registryHosts(ctx context.Context, host string, creds credentialFunc, auth *runtimeapi.AuthConfig) ([]docker.RegistryHost, error) {
	dir, err := s.registryDir(host)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		_, err := os.Stat(filepath.Join(dir, "hosts.toml"))
		if err == nil {
			opts := config.HostOptions{HostDir: func(string) (string, error) { return dir, nil }, Credentials: creds}
			return config.ConfigureHosts(ctx, opts)(host)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read registry configuration: %w", err)
		}
	}
	return s.plainHost(host, dir, creds, auth)
}

// plainHost is a registry without mirrors. With a folder of certificates, and for every host that is neither on loopback
// nor configured as insecure, HTTPS is required and verified; else HTTPS is tried, unverified, and then HTTP.
func (s *Store) plainHost(host, dir string, creds credentialFunc, auth *runtimeapi.AuthConfig) ([]docker.RegistryHost, error) {
	tlsConfig, own, err := readCertificates(dir)
	if err != nil {
		return nil, err
	}
	loopback, err := docker.MatchLocalhost(host)
	if err != nil {
		return nil, fmt.Errorf("parse registry host %q: %w", host, err)
	}
	insecure := slices.Contains(s.cfg.InsecureRegistries, host) || loopback && !own
	transport := docker.DefaultHTTPTransport(tlsConfig)
	client := &http.Client{Transport: transport}
	scheme := "https"
	if insecure {
		tlsConfig.InsecureSkipVerify = true
		if _, port, _ := net.SplitHostPort(host); port == "80" {
			scheme = "http"
		} else {
			client.Transport = docker.NewHTTPFallback(transport)
		}
	}
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(creds))
	h := docker.RegistryHost{
		Client:       client,
		Authorizer:   authorizer,
		Host:         host,
		Scheme:       scheme,
		Path:         "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
	}
	if host == dockerDomain {
		h.Host = dockerHost
	}
	if token := auth.GetRegistryToken(); token != "" && authIsFor(auth, h.Host) {
		h.Authorizer = nil
		h.Header = http.Header{"Authorization": {"Bearer " + token}}
	}
	return []docker.RegistryHost{h}, nil
}

func (s *Store) registryDir(host string) (string, error) {
	if s.cfg.RegistryConfigDir == "" {
		return "", nil
	}
	dir, err := config.HostDirFromRoot(s.cfg.RegistryConfigDir)(host)
	if err != nil && dir == "" && !errors.Is(err, os.ErrNotExist) && !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("find configuration of registry %s: %w", host, err)
	}
	return dir, nil
}

// readCertificates reads dir/*.crt as authorities to trust beside the system's, and dir/*.cert with *.key as client
// certificates. own is true when there were authorities.
func readCertificates(dir string) (_ *tls.Config, own bool, err error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if dir == "" {
		return c, false, nil
	}
	authorities, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return nil, false, fmt.Errorf("list certificates in %s: %w", dir, err)
	}
	if len(authorities) > 0 {
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, false, fmt.Errorf("read the system's certificates: %w", err)
		}
	}
	for _, path := range authorities {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, false, fmt.Errorf("read registry certificate: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, false, fmt.Errorf("read registry certificate %s: it holds no certificate", path)
		}
	}
	pairs, err := filepath.Glob(filepath.Join(dir, "*.cert"))
	if err != nil {
		return nil, false, fmt.Errorf("list certificates in %s: %w", dir, err)
	}
	for _, path := range pairs {
		pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
		if err != nil {
			return nil, false, fmt.Errorf("read client certificate for registry: %w", err)
		}
		c.Certificates = append(c.Certificates, pair)
	}
	return c, len(authorities) > 0, nil
}

// credentials reads user and password from what an image pull secret gave; a user "" with a password is an identity token.
func credentials(auth *runtimeapi.AuthConfig) (user, password string, err error) {
	switch {
	case auth == nil:
		return "", "", nil
	case auth.Username != "":
		return auth.Username, auth.Password, nil
	case auth.IdentityToken != "":
		return "", auth.IdentityToken, nil
	case auth.Auth != "":
		decoded, err := base64.StdEncoding.DecodeString(auth.Auth)
		if err != nil {
			return "", "", fmt.Errorf("decode registry credentials: %w", err)
		}
		user, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			return "", "", errors.New("decode registry credentials: no colon between user and password")
		}
		return user, strings.Trim(password, "\x00"), nil
	}
	return "", "", nil
}

// authIsFor says whether the credentials may go to host: a server address in them restricts them.
func authIsFor(auth *runtimeapi.AuthConfig, host string) bool {
	address := auth.GetServerAddress()
	if address == "" {
		return true
	}
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	return sameRegistry(host, strings.TrimSuffix(address, "/"))
}

// sameRegistry knows the several names of docker's own registry.
func sameRegistry(a, b string) bool {
	official := []string{dockerDomain, dockerHost, "index.docker.io"}
	return a == b || slices.Contains(official, a) && slices.Contains(official, b)
}
