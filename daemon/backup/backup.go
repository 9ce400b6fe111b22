// Package backup is the file that a cluster of one server is backed up to: a tar archive of a few entries, in one order and of one form,
// so that what is to be read can be compared with what would have been written, and nothing else is believed.
//
//	backup.json     what the backup is (Head)
//	peapod.json     what the data directory was
//	pki/NAME.pem    the cluster's keys: its authorities, and those of service-account tokens
//	objects         the store, as store.Snapshot's Copy writes it
//	sha256          over all bytes before this entry, in hexadecimal
//
// Names are never taken from an archive. Whoever has the file is the cluster's administrator.
package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"time"
)

// format is raised when an older release could no longer read what a newer one wrote.
const format = 1

// Head says what a backup is.
type Head struct {
	Format int `json:"format"`
	// Version is the release that wrote it.
	Version string    `json:"version"`
	Taken   time.Time `json:"taken"`
	// Revision is the store's, Objects how many it has, and Encrypted how many of these take keys that are not in the backup.
	Revision  int64 `json:"revision"`
	Objects   int64 `json:"objects"`
	Encrypted int64 `json:"encrypted"`
}

// Cluster is what is backed up, but for the objects.
type Cluster struct {
	Head Head
	// Record is what the data directory was (instance.Record).
	Record []byte
	// Keys are the cluster's, by name (pki.ReadShared).
	Keys map[string][]byte
}

// Names of entries, in their order; the keys are between the record and the objects.
const (
	headEntry    = "backup.json"
	recordEntry  = "peapod.json"
	objectsEntry = "objects"
	sumEntry     = "sha256"
)

// keyNames are those of the keys, in their order.
var keyNames = []string{"server-ca", "client-ca", "service-account", "front-proxy-ca"}

func keyEntry(name string) string { return path.Join("pki", name+".pem") }

// maxSmall is how large an entry may be that is read into memory: all but the objects.
const maxSmall = 1 << 20

// block is what everything in a tar archive is a multiple of.
const block = 512

// padding is how much follows an entry of that size.
func padding(size int64) int64 { return (block - size%block) % block }

// header is what precedes an entry: of its name and its size alone.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	h := &tar.Header{Typeflag: tar.TypeReg, Format: tar.FormatGNU, Name: name, Size: size, Mode: 0o600, ModTime: time.Unix(0, 0)}
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("make header of %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// trailerSize is that of what ends an archive: the sum's header, the sum, and two empty blocks.
const trailerSize = 4 * block

// trailer is what ends an archive whose bytes before have that sum.
func trailer(sum [sha256.Size]byte) ([]byte, error) {
	content := hex.EncodeToString(sum[:]) + "\n"
	h, err := header(sumEntry, int64(len(content)))
	if err != nil {
		return nil, err
	}
	b := make([]byte, trailerSize)
	copy(b[copy(b, h):], content)
	return b, nil
}
