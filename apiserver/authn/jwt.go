package authn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// The JSON web tokens of this server: compact form, ES256 (ECDSA on P-256 with SHA-256), nothing else. A token that
// says that it is signed in any other way is not looked at further, so no algorithm can be chosen by its bearer.

const (
	algorithm = "ES256"
	// coordinateSize is the length in bytes of r, s, x and y for P-256.
	coordinateSize = 32
	// maxToken bounds what is parsed at all.
	maxToken = 64 << 10
)

var encoding = base64.RawURLEncoding.Strict()

// header is the protected header of a token.
type header struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid,omitempty"`
	Critical  []string `json:"crit,omitempty"`
}

// errNotOurs says that something is no token of this server's form; another authenticator may know it.
var errNotOurs = errors.New("not a token of this server")

// keyID names a key: the SHA-256 of its public part, so that all servers with the key agree on it.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode token key: %w", err)
	}
	sum := sha256.Sum256(der)
	return encoding.EncodeToString(sum[:]), nil
}

// sign returns the token that carries claims.
func sign(key *ecdsa.PrivateKey, kid string, claims any) (string, error) {
	h, err := json.Marshal(header{Algorithm: algorithm, KeyID: kid})
	if err != nil {
		return "", fmt.Errorf("encode token header: %w", err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode token claims: %w", err)
	}
	input := encoding.EncodeToString(h) + "." + encoding.EncodeToString(c)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	var signature [2 * coordinateSize]byte
	r.FillBytes(signature[:coordinateSize])
	s.FillBytes(signature[coordinateSize:])
	return input + "." + encoding.EncodeToString(signature[:]), nil
}

// token is one taken apart, its signature not yet verified.
type token struct {
	header    header
	claims    []byte
	digest    [sha256.Size]byte
	signature []byte
}

// parse takes a token apart. It fails with errNotOurs for whatever is not an ES256 token.
func parse(text string) (*token, error) {
	if len(text) > maxToken {
		return nil, errNotOurs
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errNotOurs
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = encoding.DecodeString(part); err != nil {
			return nil, errNotOurs
		}
	}
	t := &token{claims: raw[1], signature: raw[2]}
	if err := decodeStrictly(raw[0], &t.header); err != nil || t.header.Algorithm != algorithm ||
		len(t.header.Critical) > 0 || len(t.signature) != 2*coordinateSize {
		return nil, errNotOurs
	}
	t.digest = sha256.Sum256([]byte(text[:len(parts[0])+1+len(parts[1])]))
	return t, nil
}

// decodeStrictly decodes one JSON value with nothing after it.
func decodeStrictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// signedBy verifies the signature.
func (t *token) signedBy(key *ecdsa.PublicKey) bool {
	if key.Curve != elliptic.P256() {
		return false
	}
	r := new(big.Int).SetBytes(t.signature[:coordinateSize])
	s := new(big.Int).SetBytes(t.signature[coordinateSize:])
	return ecdsa.Verify(key, t.digest[:], r, s)
}

// webKey is a public key in JWK form (RFC 7517).
type webKey struct {
	Use       string `json:"use"`
	Type      string `json:"kty"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

func newWebKey(key *ecdsa.PublicKey, kid string) (webKey, error) {
	point, err := key.Bytes() // 4 || X || Y
	if err != nil {
		return webKey{}, fmt.Errorf("encode token key: %w", err)
	}
	return webKey{Use: "sig", Type: "EC", KeyID: kid, Curve: "P-256", Algorithm: algorithm,
		X: encoding.EncodeToString(point[1 : 1+coordinateSize]), Y: encoding.EncodeToString(point[1+coordinateSize:])}, nil
}
