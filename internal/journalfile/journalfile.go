// Package journalfile keeps the newest state of one thing in a file that grows by one entry, a JSON object, a change.
//
// Against a file that is replaced at each change (package atomicfile) that saves an inode made and one removed a change, of
// which ext4 without a journal is slow to find new ones: it looks at every inode that was removed in the last minutes.
// A crash in the middle of a change leaves a beginning of the new entry, which is no JSON object and does not count.
package journalfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/peapod/peapod/internal/atomicfile"
)

// compactAt is the size, in bytes, from which on the next entry replaces the file instead of growing it.
const compactAt = 64 << 10

// perm are the permissions of the files.
const perm = 0o600

// Create makes the file at path, which must not exist, with its first entry. A crash may leave a file without one.
func Create(path string, entry []byte) error {
	return appendEntry(path, entry, os.O_CREATE|os.O_EXCL, false)
}

// Append makes entry, which holds no line break, the newest of the file at path. A crash of this process leaves the state
// before or after; the entry need not survive a power cut. A path has one writer at a time. The error of a file that does
// not exist satisfies os.ErrNotExist: what was removed is not made again by one who is late.
func Append(path string, entry []byte) error {
	return appendEntry(path, entry, 0, false)
}

// AppendSync is Append of an entry that survives a power cut once it returns nil (two fsyncs: the file's and its directory's).
func AppendSync(path string, entry []byte) error {
	return appendEntry(path, entry, 0, true)
}

func appendEntry(path string, entry []byte, flags int, sync bool) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|flags, perm)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("close journal: %w", closeErr)
		}
	}()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find end of journal: %w", err)
	}
	if size >= compactAt {
		write := atomicfile.Replace
		if sync {
			write = atomicfile.Write
		}
		return write(path, entry, perm)
	}
	// The line break comes first: it ends what a crash may have left.
	if _, err := f.Write(append([]byte{'\n'}, entry...)); err != nil {
		// What was written of it goes, and does no harm where it cannot: it is no whole entry.
		return errors.Join(fmt.Errorf("write journal: %w", err), f.Truncate(size))
	}
	if !sync {
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// Last returns the newest whole entry of the file at path, nil if it has none. The error of a file that does not exist
// satisfies os.ErrNotExist.
func Last(path string) ([]byte, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	for len(body) > 0 {
		start := bytes.LastIndexByte(body, '\n') + 1
		if entry := body[start:]; json.Valid(entry) {
			return entry, nil
		}
		body = body[:max(start-1, 0)]
	}
	return nil, nil
}
