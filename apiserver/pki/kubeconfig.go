package pki

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfig is a file that follows the certificates in it.
type kubeconfig struct {
	path, server string
}

// WriteKubeconfig writes the administrator's kubeconfig for the server at that URL, atomically and readable by its
// owner alone, and keeps it current for as long as Run runs.
func (p *PKI) WriteKubeconfig(path, server string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := kubeconfig{path: path, server: server}
	if err := p.writeKubeconfig(k); err != nil {
		return err
	}
	p.kubeconfigs = append(p.kubeconfigs, k)
	return nil
}

func (p *PKI) writeKubeconfig(k kubeconfig) error {
	certPEM, keyPEM := p.Admin().CurrentCertKeyContent()
	content, err := EncodeKubeconfig(k.server, p.server.CurrentCABundleContent(), certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("encode kubeconfig %s: %w", k.path, err)
	}
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return fmt.Errorf("make directory of kubeconfig: %w", err)
	}
	if err := writeFile(k.path, content); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// EncodeKubeconfig returns a kubeconfig with one cluster, called peapod, and one user with a client certificate.
func EncodeKubeconfig(server string, ca, certPEM, keyPEM []byte) ([]byte, error) {
	const name = "peapod"
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name
	return clientcmd.Write(*cfg)
}
