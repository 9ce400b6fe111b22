package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"sort"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Keyring holds registry credentials.
type Keyring struct{ entries []entry }

type entry struct {
	host, path string // host may hold globs a label, and a port
	auth       runtimeapi.AuthConfig
}

type dockerEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// AddSecret adds the credentials of a Secret of one of the dockerconfig types.
func (k *Keyring) AddSecret(s *v1.Secret) error {
	entries := map[string]dockerEntry{}
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]dockerEntry `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file); err != nil {
			return fmt.Errorf("read key %s of secret %s: %w", v1.DockerConfigJsonKey, s.Name, err)
		}
		entries = file.Auths
	case v1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &entries); err != nil {
			return fmt.Errorf("read key %s of secret %s: %w", v1.DockerConfigKey, s.Name, err)
		}
	default:
		return fmt.Errorf("secret %s of type %s holds no registry credentials", s.Name, s.Type)
	}
	for location, e := range entries {
		if err := k.add(location, e); err != nil {
			return fmt.Errorf("read credentials for %s in secret %s: %w", location, s.Name, err)
		}
	}
	// More specific locations first: the reverse order of their text does it,
	// because a prefix sorts before what it is a prefix of.
	sort.SliceStable(k.entries, func(i, j int) bool {
		a, b := &k.entries[i], &k.entries[j]
		return a.host+"/"+a.path > b.host+"/"+b.path
	})
	return nil
}

func (k *Keyring) add(location string, e dockerEntry) error {
	if e.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			raw, err = base64.RawStdEncoding.DecodeString(e.Auth)
		}
		if err != nil {
			return fmt.Errorf("decode auth: %w", err)
		}
		user, password, ok := strings.Cut(string(raw), ":")
		if !ok {
			return fmt.Errorf("decode auth: no user name and password in it")
		}
		e.Username, e.Password = user, password
	}
	if !strings.Contains(location, "://") {
		location = "https://" + location
	}
	u, err := url.Parse(location)
	if err != nil {
		return fmt.Errorf("parse location: %w", err)
	}
	path := u.Path
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/") { // the API's root is no repository
		path = path[3:]
	}
	k.entries = append(k.entries, entry{
		host: u.Host, path: strings.Trim(path, "/"),
		auth: runtimeapi.AuthConfig{
			Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
			ServerAddress: u.Host,
		},
	})
	return nil
}

// Lookup returns the credentials that fit an image, most specific first.
func (k *Keyring) Lookup(image string) []*runtimeapi.AuthConfig {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	host, path := reference.Domain(named), reference.Path(named)
	var out []*runtimeapi.AuthConfig
	for i := range k.entries {
		e := &k.entries[i]
		if hostMatches(e.host, host) && strings.HasPrefix(path, e.path) {
			out = append(out, &e.auth)
		}
	}
	return out
}

// hostMatches compares label by label, where a label of the pattern may hold
// globs; a port must be the same. Docker Hub has several names.
func hostMatches(pattern, host string) bool {
	if host == "docker.io" && (pattern == "index.docker.io" || pattern == "registry-1.docker.io") {
		return true
	}
	ph, pp := splitPort(pattern)
	hh, hp := splitPort(host)
	if pp != hp {
		return false
	}
	pl, hl := strings.Split(ph, "."), strings.Split(hh, ".")
	if len(pl) != len(hl) {
		return false
	}
	for i := range pl {
		if ok, err := filepath.Match(pl[i], hl[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitPort(hostport string) (host, port string) {
	if h, p, err := net.SplitHostPort(hostport); err == nil {
		return h, p
	}
	return hostport, ""
}
