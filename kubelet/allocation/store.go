package allocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// Record is what the node keeps of one Pod's resources.
type Record struct {
	// Generation is that of the Pod whose spec is allocated.
	Generation int64 `json:"generation"`
	// Allocated is what the Pod may have.
	Allocated Resources `json:"allocated"`
	// Actuated is what is in force in containers, and what the Pod's cgroup has room for.
	Actuated Resources `json:"actuated"`
	// Settled is the generation whose resources all came into force, those of
	// the Pod's cgroup included.
	Settled int64 `json:"settled"`
}

// Done says whether what is allocated is in force.
func (r *Record) Done() bool { return r.Settled == r.Generation && r.Allocated.Equal(r.Actuated) }

// File is the name of a Pod's record in its directory.
const File = "allocation"

// Store keeps one file a Pod. Calls for one Pod must not overlap.
type Store struct {
	// Dir is the directory of a Pod.
	Dir func(types.UID) string
}

// Load reads a Pod's record, nil if there is none.
func (s Store) Load(uid types.UID) (*Record, error) {
	data, err := os.ReadFile(filepath.Join(s.Dir(uid), File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read allocation of pod %s: %w", uid, err)
	}
	r := &Record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read allocation of pod %s: %w", uid, err)
	}
	return r, nil
}

// Save replaces a Pod's record: whoever reads it finds the old one or the new
// one. It outlives the process at once, and with sync also the machine. Without,
// after a power cut the record may be missing or unreadable; then the Pod is
// admitted with what its spec says, as it was the first time. A sync costs
// milliseconds, which is why an admission does without and a resize does not.
func (s Store) Save(uid types.UID, r *Record, sync bool) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode allocation of pod %s: %w", uid, err)
	}
	dir := s.Dir(uid)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := replace(dir, data, sync); err != nil {
		return fmt.Errorf("write allocation of pod %s: %w", uid, err)
	}
	return nil
}

func replace(dir string, data []byte, sync bool) error {
	path := filepath.Join(dir, File)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil || !sync {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Remove deletes a Pod's record. Idempotent.
func (s Store) Remove(uid types.UID) error {
	for _, name := range []string{File, File + ".new"} {
		if err := os.Remove(filepath.Join(s.Dir(uid), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove allocation of pod %s: %w", uid, err)
		}
	}
	return nil
}
