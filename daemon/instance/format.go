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

// RecordFile says what the data directory is. It is there once a server or an agent has been started with it.
func (i Instance) RecordFile() string { return filepath.Join(i.DataDir, "peapod.json") }

// readRecord returns an empty record for a new directory.
func (i Instance) readRecord() (record, error) {
	b, err := os.ReadFile(i.RecordFile())
	if errors.Is(err, os.ErrNotExist) {
		return record{Format: format}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read what the data directory is: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("read %s: %w; restore it from a backup, or remove the data directory to start anew", i.RecordFile(), err)
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

// Record returns what the data directory is, for PutBack.
func (i Instance) Record() ([]byte, error) {
	b, err := os.ReadFile(i.RecordFile())
	if err != nil {
		return nil, fmt.Errorf("read what the data directory is: %w", err)
	}
	return b, nil
}

// CheckRecord says why a data directory cannot be what b says, which Record is to have returned for another.
func CheckRecord(b []byte) error {
	_, err := restorable(b)
	return err
}

// PutBack makes a data directory of which nobody knows what it is that what Record has returned of another. From then on no server begins
// with an empty store there. The caller holds the Lock.
func (i Instance) PutBack(b []byte) error {
	r, err := restorable(b)
	if err != nil {
		return err
	}
	return i.writeRecord(r)
}

func restorable(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read what the data directory was: %w", err)
	}
	if r.Format > format {
		return r, fmt.Errorf("the data directory was that of %s (format %d), this release knows formats up to %d: use that release or a newer one", r.Version, r.Format, format)
	}
	if r.Format < 1 || r.Ranges == nil || len(r.Ranges.Cluster) == 0 || len(r.Ranges.Service) == 0 {
		return r, errors.New("read what the data directory was: no addresses of Pods and Services are in it")
	}
	r.Store = true
	return r, nil
}

func (i Instance) writeRecord(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(i.RecordFile(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write what the data directory is: %w", err)
	}
	return nil
}
