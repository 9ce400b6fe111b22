//go:build cgo

package server

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// recover ends what an earlier supervisor left without a parent. Nobody reads the output of those containers and nobody would learn their
// exit codes, so they are killed and recorded as ended for unknown reasons. Doing it twice, or half and then again, is no harm.
func (s *Server) recover() error {
	records, err := s.readRecords()
	if err != nil {
		return err
	}
	for i := range records {
		r := &records[i]
		if r.Exit != nil {
			continue
		}
		if err := clearGroup(r.Cgroup); err != nil {
			return fmt.Errorf("clear orphaned container %s: %w", r.ID, err)
		}
		if err := os.RemoveAll(filepath.Join(s.libDir, r.ID)); err != nil {
			return fmt.Errorf("clear orphaned container %s: %w", r.ID, err)
		}
		r.Exit = &protocol.ExitState{Code: unknownExitCode, Unknown: true, FinishedAt: time.Now()}
		if err := s.writeRecord(r, true); err != nil {
			return err
		}
		s.cfg.Logf("container %s ended unseen", r.ID)
	}
	return nil
}
