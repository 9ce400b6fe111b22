package disk

import (
	"fmt"

	"github.com/peapod/peapod/store/mvcc"
)

const (
	minReserve = 4 << 20
	maxReserve = 64 << 20
)

// reserveFor returns the number of bytes to leave free, given what was configured.
func (d *DB) reserveFor(configured int64) int64 {
	if configured != 0 {
		return max(configured, 0)
	}
	usage, err := d.fs.GetDiskUsage(d.dir)
	if err != nil {
		// A file system that does not tell is not watched.
		return 0
	}
	return min(max(int64(usage.TotalBytes/20), minReserve), maxReserve)
}

// Size is what the database's files take, in bytes.
func (d *DB) Size() int64 { return int64(d.db.Metrics().DiskSpaceUsage()) }

// checkSpace refuses the events where the file system has less free space than the reserve. Deletions may use half of
// it: they are how space is made. It costs a system call of a microsecond.
func (d *DB) checkSpace(events []mvcc.Event) error {
	if d.reserve == 0 {
		return nil
	}
	usage, err := d.fs.GetDiskUsage(d.dir)
	if err != nil {
		return nil
	}
	need := d.reserve / 2
	for i := range events {
		if events[i].Cur != nil {
			need = d.reserve
			break
		}
	}
	if free := int64(usage.AvailBytes); free < need {
		return fmt.Errorf("%w: %d MiB free at %s, %d MiB needed", ErrNoSpace, free>>20, d.dir, need>>20)
	}
	return nil
}
