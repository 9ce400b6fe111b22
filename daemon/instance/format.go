package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/peapod/peapod/internal/atomicfile"
)

// format is the layout of the data directory that this release writes. It is raised when an older release could no
// longer read what a newer one wrote.
const format = 1

// record is the file that says what a data directory is.
type record struct {
	// Format is the layout, see format.
	Format int `json:"format"`
	// Version is the release that wrote it last.
	Version string `json:"version"`
	// Ranges are the address ranges, chosen once.
	Ranges *Ranges `json:"ranges,omitempty"`
	// Store says that there has been a store of its own.
	Store bool `json:"store,omitempty"`
}

func (i Instance) recordFile() string { return filepath.Join(i.DataDir, "peapod.json") }

// readRecord returns an empty record for a new directory.
func (i Instance) readRecord() (record, error) {
	b, err := os.ReadFile(i.recordFile())
	if errors.Is(err, os.ErrNotExist) {
		return record{Format: format}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read what the data directory is: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("read %s: %w; restore it from a backup, or remove the data directory to start anew", i.recordFile(), err)
	}
	return r, nil
}

// Open checks that this release can use the data directory and marks it as version's. The caller holds the Lock. A
// directory of a newer layout is refused untouched.
func (i Instance) Open(version string) error {
	r, err := i.readRecord()
	if err != nil {
		return err
	}
	if r.Format > format {
		return fmt.Errorf("data directory %s was made by %s (format %d), this is %s (format %d): run that release or a newer one, or choose another --data-dir",
			i.DataDir, r.Version, r.Format, version, format)
	}
	r.Format, r.Version = format, version
	return i.writeRecord(r)
}

// HadStore says whether the data directory has had a store of its own: NoteStore was called.
func (i Instance) HadStore() (bool, error) {
	r, err := i.readRecord()
	return r.Store, err
}

// NoteStore remembers that the data directory has a store of its own. It writes once; the caller holds the Lock.
func (i Instance) NoteStore() error {
	r, err := i.readRecord()
	if err != nil || r.Store {
		return err
	}
	r.Store = true
	return i.writeRecord(r)
}

func (i Instance) writeRecord(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(i.recordFile(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write what the data directory is: %w", err)
	}
	return nil
}
