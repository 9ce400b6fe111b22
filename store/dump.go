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

// Stored is what the store holds under a key, as it lies there: encoded, and encrypted if it was.
type Stored struct {
	Key  string
	Data []byte
	// Expires is when it is to go; zero: never.
	Expires time.Time
}

// Dump reads all that the store in cfg.Dir holds, in the order of keys, and its latest revision. Nobody else may have it open.
func Dump(ctx context.Context, cfg Config) (all []Stored, rev int64, err error) {
	db, err := disk.Open(disk.Config{Dir: cfg.Dir, FS: cfg.FS, Log: klog.FromContext(ctx)})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rev, err = db.Load(func(v *mvcc.Value) {
		one := Stored{Key: v.Key, Data: v.Data}
		if v.Expires != 0 {
			one.Expires = time.UnixMilli(v.Expires)
		}
		all = append(all, one)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read store %s: %w", cfg.Dir, err)
	}
	return all, rev, nil
}
