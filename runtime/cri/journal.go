package cri

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/peapod/peapod/internal/journalfile"
)

// createJournal makes the journal at path with its first entry.
func createJournal(path string, entry any) error {
	return journal(path, entry, journalfile.Create)
}

// writeJournal makes entry the newest of the journal at path, atomically for kill -9. It is not synced: after a power failure no process,
// mount or namespace is left that an entry could miss, and snapshots and addresses without an entry are found from their own side.
func writeJournal(path string, entry any) error {
	return journal(path, entry, journalfile.Append)
}

func journal(path string, entry any, write func(path string, entry []byte) error) error {
	body, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("encode journal of %s: %w", filepath.Base(path), err)
	}
	return write(path, body)
}

// readJournal reads the newest entry of the journal at path. It reports false for a file without a whole one.
func readJournal(path string, entry any) (bool, error) {
	body, err := journalfile.Last(path)
	if err != nil {
		return false, err
	}
	return json.Unmarshal(body, entry) == nil, nil
}

// packed is a protobuf message in a journal.
type packed[M proto.Message] struct{ Message M }

func (p packed[M]) MarshalJSON() ([]byte, error) {
	body, err := proto.Marshal(p.Message)
	if err != nil {
		return nil, err
	}
	return json.Marshal(body)
}

func (p *packed[M]) UnmarshalJSON(raw []byte) error {
	var body []byte
	if err := json.Unmarshal(raw, &body); err != nil {
		return err
	}
	m, ok := p.Message.ProtoReflect().New().Interface().(M)
	if !ok {
		return errors.New("journal holds another message")
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return err
	}
	p.Message = m
	return nil
}

// newID is the random name of a sandbox or container.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
