package pki

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of what several servers of one cluster have in common.
const (
	serverCA     = "server-ca"
	clientCA     = "client-ca"
	frontProxyCA = "front-proxy-ca"
	accountKeys  = "service-account"
)

func sharedNames() []string { return []string{serverCA, clientCA, accountKeys, frontProxyCA} }

// ReadShared returns what the servers of one cluster have in common of a directory that Open has made: the authorities and
// the token keys, by name. They are secret.
func ReadShared(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range sharedNames() {
		content, err := readFile(filepath.Join(dir, name+".pem"))
		if err != nil {
			return nil, fmt.Errorf("read %s of the cluster: %w", name, err)
		}
		files[name] = content
	}
	return files, nil
}

// OtherClusterError says that a directory holds the keys of another cluster.
type OtherClusterError struct{ Path string }

func (e *OtherClusterError) Error() string {
	return fmt.Sprintf("%s is another cluster's: this data directory was not made for the cluster that is to be joined; choose another --data-dir", e.Path)
}

// InstallShared puts what ReadShared returned on another server into dir, before Open. What is there already must be of the
// same keys, though it may have been renewed since. The cluster may be of a time when it had no authority for the front proxy: then each
// server makes one of its own, and all are published.
func InstallShared(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make PKI directory: %w", err)
	}
	for _, name := range sharedNames() {
		content, path := files[name], filepath.Join(dir, name+".pem")
		if content == nil && name == frontProxyCA {
			continue
		}
		theirs, err := publicKeys(name, content)
		if err != nil {
			return fmt.Errorf("read %s of the cluster: %w", name, err)
		}
		old, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if err := writeFile(path, content); err != nil {
				return fmt.Errorf("store %s of the cluster: %w", name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		ours, err := publicKeys(name, old)
		if err != nil {
			return &CorruptError{Path: path, Err: err, Remedy: "remove it, and the cluster's is put there at the next start"}
		}
		if !ours[0].Equal(theirs[0]) {
			return &OtherClusterError{path}
		}
	}
	return nil
}

// CheckShared says why files are not what ReadShared has returned: what InstallShared would say after it has begun.
func CheckShared(files map[string][]byte) error {
	for _, name := range sharedNames() {
		if _, err := publicKeys(name, files[name]); err != nil {
			return fmt.Errorf("read %s of the cluster: %w", name, err)
		}
	}
	return nil
}

// publicKeys returns the keys of a file of that name, at least one.
func publicKeys(name string, content []byte) ([]*ecdsa.PublicKey, error) {
	if name != accountKeys {
		_, key, err := decodePair(content)
		if err != nil {
			return nil, err
		}
		return []*ecdsa.PublicKey{&key.PublicKey}, nil
	}
	keys, err := decodeKeys(content)
	if err != nil {
		return nil, err
	}
	var public []*ecdsa.PublicKey
	for _, key := range keys {
		public = append(public, &key.PublicKey)
	}
	return public, nil
}
