package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/peapod/peapod/store/disk"
	"github.com/peapod/peapod/store/mvcc"
)

// Snapshot is all that a store holds at one revision. It does not change, and writers do not wait for it; while it is held, what it shows
// stays in memory. Everything in it is on disk.
type Snapshot struct{ view *mvcc.View }

// Snapshot returns what the store holds now, with everything that has been acknowledged. It costs nothing. A store that failed
// has one too: of what it holds nothing was lost in memory.
func (s *Store) Snapshot() Snapshot { return Snapshot{s.present()} }

// Read returns what the store in cfg.Dir holds. Nobody else may have it open.
func Read(ctx context.Context, cfg Config) (_ Snapshot, err error) {
	db, err := disk.Open(disk.Config{Dir: cfg.Dir, FS: cfg.FS, Log: klog.FromContext(ctx)})
	if err != nil {
		return Snapshot{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	state := mvcc.New(mvcc.Limits{})
	rev, err := db.Load(state.Restore)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read store %s: %w", cfg.Dir, err)
	}
	if rev > 0 {
		state.Restored(rev)
	}
	return Snapshot{state.View()}, nil
}

// Revision is the latest one in the snapshot.
func (s Snapshot) Revision() int64 { return s.view.Rev() }

// Len is how many values the snapshot has. It costs a look at each.
func (s Snapshot) Len() int64 { return s.view.Count("", "") }

// Stored is what the store holds under a key, as it lies there: encoded, and encrypted if it was.
type Stored struct {
	Key string
	// Data may not be changed.
	Data []byte
	// Expires is when it is to go; zero: never.
	Expires time.Time
}

// All yields what the snapshot has, in the order of keys.
func (s Snapshot) All(yield func(Stored) bool) {
	s.view.Ascend("", "", func(v *mvcc.Value) bool {
		one := Stored{Key: v.Key, Data: v.Data}
		if v.Expires != 0 {
			one.Expires = time.UnixMilli(v.Expires)
		}
		return yield(one)
	})
}
