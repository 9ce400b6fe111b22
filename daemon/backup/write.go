package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/store"
)

// Write writes a backup of a cluster with these objects to w, until ctx ends. What the head says of the objects and of the format it finds out
// by itself.
func Write(ctx context.Context, w io.Writer, c Cluster, objects store.Snapshot) error {
	c.Head.Format, c.Head.Revision, c.Head.Objects = format, objects.Revision(), objects.Len()
	head, err := json.MarshalIndent(c.Head, "", "  ")
	if err != nil {
		return err
	}
	sum := sha256.New()
	buffered := bufio.NewWriterSize(w, chunk)
	out := io.MultiWriter(sum, buffered)
	if err := writeSmall(out, headEntry, append(head, '\n')); err != nil {
		return err
	}
	if err := writeSmall(out, recordEntry, c.Record); err != nil {
		return err
	}
	if len(c.Keys) != len(keyNames) {
		return fmt.Errorf("write a backup of %d keys: there are %d", len(keyNames), len(c.Keys))
	}
	for _, name := range keyNames {
		if err := writeSmall(out, keyEntry(name), c.Keys[name]); err != nil {
			return err
		}
	}
	err = writeEntry(out, objectsEntry, objects.CopySize(), func(w io.Writer) error { return objects.Copy(ctx, w) })
	if err != nil {
		return err
	}
	end, err := trailer([sha256.Size]byte(sum.Sum(nil)))
	if err != nil {
		return err
	}
	if _, err := buffered.Write(end); err != nil {
		return fmt.Errorf("write the end of the backup: %w", err)
	}
	return buffered.Flush()
}

func writeSmall(w io.Writer, name string, content []byte) error {
	if len(content) == 0 || len(content) > maxSmall {
		return fmt.Errorf("write %s: its size is %d", name, len(content))
	}
	return writeEntry(w, name, int64(len(content)), func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// writeEntry writes an entry, of which content writes size bytes.
func writeEntry(w io.Writer, name string, size int64, content func(io.Writer) error) error {
	h, err := header(name, size)
	if err != nil {
		return err
	}
	if _, err = w.Write(h); err == nil {
		err = content(w)
	}
	if err == nil {
		_, err = w.Write(make([]byte, padding(size)))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Keep has write write a backup, which becomes the file at path when it is whole, checked and on disk: for its owner alone, and never
// in the place of another. It returns what the backup says that it is, and its size. A kill leaves a file ".<base>.*" beside path at most.
func Keep(path string, write func(io.Writer) error) (h Head, size int64, err error) {
	if err := free(path); err != nil {
		return h, 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return h, 0, fmt.Errorf("write %s: %w", path, err)
	}
	kept := false
	defer func() {
		if err = errors.Join(err, f.Close()); !kept {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return h, 0, err
	}
	written, err := read(f)
	if err != nil {
		return h, 0, fmt.Errorf("check what was written: %w", err)
	}
	if err := f.Sync(); err != nil {
		return h, 0, fmt.Errorf("write %s: %w", path, err)
	}
	if err := nameNew(f.Name(), path); err != nil {
		return h, 0, err
	}
	kept = true
	return written.Head, written.size, atomicfile.SyncDir(filepath.Dir(path))
}

// free refuses a path at which something is.
func free(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s is there already; name a file that is not", path)
	}
	return err
}

// nameNew gives a file the name to, which nobody has. Where the file system cannot promise that, as some over networks, it is looked
// for once more.
func nameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err = free(to); err == nil {
			err = os.Rename(from, to)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return free(to)
	}
	if err != nil {
		return fmt.Errorf("name the backup %s: %w", to, err)
	}
	return nil
}
