package join

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// sealed is how Seal writes what it has encrypted: AES-256-GCM under a key that PBKDF2 derives from the token.
type sealed struct {
	Version    int    `json:"version"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
	Nonce      []byte `json:"nonce"`
	Sealed     []byte `json:"sealed"`
}

const (
	sealVersion = 1
	// iterations makes guessing a token slow: some 150 ms for each guess, and for each start of a server. maxIterations
	// bounds what somebody who can write there can make a server compute.
	iterations, maxIterations = 600_000, 10_000_000
	keyBytes                  = 32
)

// Seal encrypts data under a token.
func Seal(token string, data []byte) ([]byte, error) {
	s := sealed{Version: sealVersion, Iterations: iterations, Salt: make([]byte, 16)}
	rand.Read(s.Salt) // never fails
	box, err := s.box(token)
	if err != nil {
		return nil, err
	}
	s.Nonce = make([]byte, box.NonceSize())
	rand.Read(s.Nonce)
	s.Sealed = box.Seal(nil, s.Nonce, data, nil)
	return json.Marshal(s)
}

// ErrWrongToken says no more: what was sealed under another token looks like what was tampered with.
var ErrWrongToken = errors.New("it is not the token of this cluster's servers, which is in <data-dir>/server-token of each, or after peapod token rotate of the one where that was run; or somebody has changed what is in etcd")

// Unseal returns what Seal was given with the same token.
func Unseal(token string, content []byte) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("read the cluster's keys: %w", err)
	}
	if s.Version != sealVersion {
		return nil, fmt.Errorf("the cluster's keys are sealed in form %d, this release knows form %d: run a newer one", s.Version, sealVersion)
	}
	if s.Iterations < 1 || s.Iterations > maxIterations {
		return nil, ErrWrongToken
	}
	box, err := s.box(token)
	if err != nil {
		return nil, err
	}
	if len(s.Nonce) != box.NonceSize() {
		return nil, ErrWrongToken
	}
	data, err := box.Open(nil, s.Nonce, s.Sealed, nil)
	if err != nil {
		return nil, ErrWrongToken
	}
	return data, nil
}

func (s *sealed) box(token string) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, token, s.Salt, s.Iterations, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive key from token: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
