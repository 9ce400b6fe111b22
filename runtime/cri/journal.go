package cri

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/peapod/peapod/internal/atomicfile"
)

const journalName = "journal.json"

// writeJournal replaces the journal file of dir, atomically for kill -9. It is not synced: after a power failure no process, mount or
// namespace is left that an entry could miss, and snapshots and addresses without an entry are found from their own side.
func writeJournal(dir string, entry any) error {
	body, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("encode journal of %s: %w", filepath.Base(dir), err)
	}
	if err := atomicfile.Replace(filepath.Join(dir, journalName), body, 0o600); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// readJournal reads the journal file of dir into entry. It reports false for a file that is absent or cut short.
func readJournal(dir string, entry any) (bool, error) {
	body, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read journal: %w", err)
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
