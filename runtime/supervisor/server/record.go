//go:build cgo

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/peapod/peapod/internal/journalfile"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// unknownExitCode is the exit code of a container whose end nobody saw.
const unknownExitCode = 255

// record is a container's file in StateDir. It exists from before the container's first step until Delete; Exit is set once the container
// ended.
type record struct {
	ID         string              `json:"id"`
	Pid        int                 `json:"pid,omitempty"`
	StartedAt  time.Time           `json:"startedAt,omitzero"`
	Cgroup     string              `json:"cgroup"`
	LogDir     string              `json:"logDir,omitempty"`
	LogName    string              `json:"logName,omitempty"`
	Stdin      bool                `json:"stdin,omitempty"`
	StdinOnce  bool                `json:"stdinOnce,omitempty"`
	TTY        bool                `json:"tty,omitempty"`
	PrivatePID bool                `json:"privatePID,omitempty"`
	Exit       *protocol.ExitState `json:"exit,omitempty"`

	watched bool // guarded by container.mu
}

func (r *record) state() protocol.ContainerState {
	return protocol.ContainerState{ID: r.ID, Pid: r.Pid, StartedAt: r.StartedAt, Exit: r.Exit}
}

const recordSuffix = ".json"

func (s *Server) recordPath(id string) string {
	return filepath.Join(s.cfg.StateDir, id+recordSuffix)
}

// createRecord makes a container's record. A container that ran needs none after a power failure.
func (s *Server) createRecord(r *record) error {
	return s.record(r, journalfile.Create)
}

// writeRecord makes r the container's newest record, atomically. Exits are synced: the exit code of a finished Job must survive a power
// failure.
func (s *Server) writeRecord(r *record, sync bool) error {
	if sync {
		return s.record(r, journalfile.AppendSync)
	}
	return s.record(r, journalfile.Append)
}

func (s *Server) record(r *record, write func(path string, entry []byte) error) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of container %s: %w", r.ID, err)
	}
	if err := write(s.recordPath(r.ID), body); err != nil {
		return fmt.Errorf("write record of container %s: %w", r.ID, err)
	}
	return nil
}

func (s *Server) removeRecord(id string) error {
	if id == "" || strings.ContainsRune(id, filepath.Separator) {
		return coded(protocol.Invalid, "bad container ID %q", id)
	}
	if err := os.Remove(s.recordPath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of container %s: %w", id, err)
	}
	return nil
}

// readRecords reads all records. A file without a whole one, as a power failure leaves it, counts as a container that ended unseen.
func (s *Server) readRecords() ([]record, error) {
	entries, err := os.ReadDir(s.cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("read container records: %w", err)
	}
	var records []record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue
		}
		body, err := journalfile.Last(filepath.Join(s.cfg.StateDir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return records, fmt.Errorf("read container record: %w", err)
		}
		r := record{ID: id}
		if err := json.Unmarshal(body, &r); err != nil || r.ID != id {
			r = record{ID: id}
		}
		records = append(records, r)
	}
	return records, nil
}
