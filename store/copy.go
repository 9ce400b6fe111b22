package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"k8s.io/klog/v2"

	"github.com/peapod/peapod/store/disk"
	"github.com/peapod/peapod/store/mvcc"
)

// A copy of a snapshot is its values in the order of keys, each as the length of its key, the key, the length of what the database
// has for it, and that: lengths as varints. It does not depend on the database's files.

// No key and no value of a copy is longer: far more than may be stored, so that a copy that was made up does not fill the memory.
const (
	maxCopiedKey   = 64 << 10
	maxCopiedValue = 16 << 20
)

// CopySize returns how many bytes Copy writes. It costs a look at each value.
func (s Snapshot) CopySize() int64 {
	var size int64
	var head []byte
	s.view.Ascend("", "", func(v *mvcc.Value) bool {
		head = appendCopied(head[:0], v)
		size += int64(len(head) + len(v.Data))
		return true
	})
	return size
}

// Copy writes the snapshot to w, for Check and Fill to read, until ctx ends.
func (s Snapshot) Copy(ctx context.Context, w io.Writer) (err error) {
	var head []byte
	s.view.Ascend("", "", func(v *mvcc.Value) bool {
		if err = ctx.Err(); err != nil {
			return false
		}
		head = appendCopied(head[:0], v)
		if _, err = w.Write(head); err == nil {
			_, err = w.Write(v.Data)
		}
		return err == nil
	})
	return err
}

// appendCopied appends all of a value's record but its data.
func appendCopied(dst []byte, v *mvcc.Value) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v.Key)))
	dst = append(dst, v.Key...)
	var header [4 * binary.MaxVarintLen64]byte
	h := disk.AppendHeader(header[:0], v)
	dst = binary.AppendUvarint(dst, uint64(len(h)+len(v.Data)))
	return append(dst, h...)
}

// ErrCopy says that something is not what Copy has written.
var ErrCopy = errors.New("not the copy of a store")

// Check reads to the end of r what Copy has written of a snapshot of revision rev, and returns how many values there are. It is an error
// if a store could not have held them.
func Check(r io.Reader, rev int64) (values int64, err error) {
	err = readCopy(r, rev, func(*mvcc.Value) error {
		values++
		return nil
	})
	return values, err
}

// Fill makes a store in cfg.Dir, where there is none, of what Copy has written of a snapshot of revision rev. When it returns nil the
// store is on disk. What it leaves otherwise is no store, and may be removed.
func Fill(ctx context.Context, cfg Config, r io.Reader, rev int64) (err error) {
	db, err := disk.Open(disk.Config{Dir: cfg.Dir, FS: cfg.FS, Log: klog.FromContext(ctx)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var batch []mvcc.Event
	size := 0
	commit := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := db.Commit(rev, batch)
		batch, size = batch[:0], 0
		return err
	}
	err = readCopy(r, rev, func(v *mvcc.Value) error {
		batch = append(batch, mvcc.Event{Rev: v.Mod, Key: v.Key, Cur: v})
		if size += len(v.Data); len(batch) < maxBatchWrites && size < maxBatchBytes {
			return nil
		}
		return commit()
	})
	if err == nil {
		err = commit() // the revision, if nothing else
	}
	if err != nil {
		return fmt.Errorf("fill store %s: %w", cfg.Dir, err)
	}
	return nil
}

// readCopy calls fn with each value of a copy, in order.
func readCopy(r io.Reader, rev int64, fn func(*mvcc.Value) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	if rev < mvcc.FirstRevision {
		return fmt.Errorf("%w: revision %d", ErrCopy, rev)
	}
	var key, value []byte
	for last := ""; ; last = string(key) {
		if _, err := in.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		var err error
		if key, err = readSized(in, key, maxCopiedKey); err != nil {
			return fmt.Errorf("%w: a key after %q: %w", ErrCopy, last, err)
		}
		if value, err = readSized(in, value, maxCopiedValue); err != nil {
			return fmt.Errorf("%w: value of %q: %w", ErrCopy, key, err)
		}
		v, err := disk.DecodeValue(key, value)
		if err != nil {
			return fmt.Errorf("%w: value of %q: %w", ErrCopy, key, err)
		}
		if v.Key <= last || v.Create < 1 || v.Mod < v.Create || rev < v.Mod || v.Version < 1 || v.Expires < 0 {
			return fmt.Errorf("%w: %q after %q: made at %d, changed at %d, %d times, expires at %d, of %d", ErrCopy,
				v.Key, last, v.Create, v.Mod, v.Version, v.Expires, rev)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}

// readSized reads a length and as many bytes, into buf where there is room.
func readSized(in *bufio.Reader, buf []byte, most uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(in)
	if err == nil && n > most {
		err = fmt.Errorf("%d bytes are more than %d", n, most)
	}
	if err != nil {
		return buf, err
	}
	if uint64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(in, buf)
	return buf, err
}
