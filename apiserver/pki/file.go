package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/peapod/peapod/internal/atomicfile"
)

// CorruptError reports a file whose content is not what this package wrote.
type CorruptError struct {
	Path string
	Err  error
	// Remedy says what to do about it.
	Remedy string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("file %s is damaged: %v; %s", e.Path, e.Err, e.Remedy)
}

func (e *CorruptError) Unwrap() error { return e.Err }

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "EC PRIVATE KEY"
)

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// decodePair reads one certificate and its key, and nothing else, from PEM.
func decodePair(content []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	var cert *x509.Certificate
	var key *ecdsa.PrivateKey
	for block, rest := pem.Decode(content); ; block, rest = pem.Decode(rest) {
		if block == nil {
			if len(rest) > 0 {
				return nil, nil, errors.New("it holds something that is not PEM")
			}
			break
		}
		var err error
		switch {
		case block.Type == certificateBlock && cert == nil:
			cert, err = x509.ParseCertificate(block.Bytes)
		case block.Type == keyBlock && key == nil:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			err = fmt.Errorf("it holds an unexpected or second block of type %q", block.Type)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	switch {
	case cert == nil:
		return nil, nil, errors.New("it holds no certificate")
	case key == nil:
		return nil, nil, errors.New("it holds no private key")
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, nil, errors.New("the private key does not belong to the certificate")
	}
	return cert, key, nil
}

// openKeys reads the token keys, or makes the first. The file may hold several: an operator rotates the key by putting
// a new one before the old ones.
func openKeys(path string) ([]*ecdsa.PrivateKey, error) {
	content, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate service-account key: %w", err)
		}
		keyPEM, err := encodeKey(key)
		if err != nil {
			return nil, err
		}
		if err := writeFile(path, keyPEM); err != nil {
			return nil, fmt.Errorf("store service-account key: %w", err)
		}
		return []*ecdsa.PrivateKey{key}, nil
	case err != nil:
		return nil, fmt.Errorf("read service-account key: %w", err)
	}
	keys, err := decodeKeys(content)
	if err != nil {
		return nil, &CorruptError{Path: path, Err: err,
			Remedy: "restore it from a backup; removing it has a new key made, after which all service-account tokens issued so far are refused"}
	}
	return keys, nil
}

func decodeKeys(content []byte) ([]*ecdsa.PrivateKey, error) {
	var keys []*ecdsa.PrivateKey
	for block, rest := pem.Decode(content); ; block, rest = pem.Decode(rest) {
		if block == nil {
			if len(rest) > 0 {
				return nil, errors.New("it holds something that is not PEM")
			}
			break
		}
		if block.Type != keyBlock {
			return nil, fmt.Errorf("it holds an unexpected block of type %q", block.Type)
		}
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if key.Curve != elliptic.P256() {
			return nil, errors.New("the private key is not on the curve P-256")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no private key")
	}
	return keys, nil
}

// maxFile is far more than any file here needs, so that a wrong path does not fill the memory.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of keys and certificates", path)
	}
	return os.ReadFile(path)
}

// writeFile replaces path in one step, readable by its owner alone, and returns after it is on disk.
func writeFile(path string, content []byte) error { return atomicfile.Write(path, content, 0o600) }
