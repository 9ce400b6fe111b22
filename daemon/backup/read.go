package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/peapod/peapod/store"
)

// ErrNotWhole says that a file is not what Write has written: it is something else, or parts of it are missing or changed.
var ErrNotWhole = errors.New("this is no backup, or not a whole one")

// File is a backup that has been checked from its first byte to its last.
type File struct {
	Cluster
	f *os.File
	// size is the file's; the objects are that many bytes from at on, of which sum is the SHA-256.
	size, at, objects int64
	sum               [sha256.Size]byte
}

// Open opens and checks the backup at path. It reads the file twice, and needs no memory for it.
func Open(path string) (_ *File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open backup: %w", err)
	}
	b, err := read(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read backup %s: %w", path, err), f.Close())
	}
	return b, nil
}

// Close closes the file.
func (b *File) Close() error { return b.f.Close() }

// Objects reads the objects, for store.Fill: to the end without an error only if they are those that were checked.
func (b *File) Objects() io.Reader {
	return &summed{r: io.NewSectionReader(b.f, b.at, b.objects), sum: sha256.New(), want: b.sum}
}

// read checks a file. First that nothing of it is missing or changed, then that all of it is as Write would have it.
func read(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := &File{f: f, size: info.Size()}
	if !info.Mode().IsRegular() || b.size < trailerSize {
		return nil, ErrNotWhole
	}
	if err := b.checkSum(); err != nil {
		return nil, err
	}
	head, err := b.readSmall(headEntry)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, &b.Head); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotWhole, headEntry, err)
	}
	if b.Head.Format != format {
		return nil, fmt.Errorf("the backup is by %s (format %d), this release knows format %d: use that release or a newer one", b.Head.Version, b.Head.Format, format)
	}
	if b.Record, err = b.readSmall(recordEntry); err != nil {
		return nil, err
	}
	b.Keys = map[string][]byte{}
	for _, name := range keyNames {
		if b.Keys[name], err = b.readSmall(keyEntry(name)); err != nil {
			return nil, err
		}
	}
	return b, b.checkObjects()
}

// checkSum compares the end of the file with what it should be after what is before.
func (b *File) checkSum() error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(b.f, 0, b.size-trailerSize)); err != nil {
		return err
	}
	want, err := trailer([sha256.Size]byte(sum.Sum(nil)))
	if err != nil {
		return err
	}
	got := make([]byte, trailerSize)
	if _, err := b.f.ReadAt(got, b.size-trailerSize); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its sum is not %x", ErrNotWhole, sum.Sum(nil))
	}
	return nil
}

// entry reads the header of the next entry, which must be the one of that name, and returns its size; b.at is moved to its content.
func (b *File) entry(name string) (size int64, err error) {
	notIt := fmt.Errorf("%w: at byte %d there should be entry %s", ErrNotWhole, b.at, name)
	got := make([]byte, block)
	left := b.size - trailerSize - b.at - block
	if left < 0 {
		return 0, notIt
	}
	if _, err := b.f.ReadAt(got, b.at); err != nil {
		return 0, err
	}
	// The one thing that is taken from a header is its size, 11 octal digits or, from 8 GiB on, 12 bytes of which the first is 0x80.
	if field := got[124:136]; field[0] == 0x80 {
		for _, c := range field[4:] {
			size = size<<8 | int64(c)
		}
	} else if size, err = strconv.ParseInt(strings.TrimRight(string(field), "\x00"), 8, 64); err != nil {
		return 0, notIt
	}
	want, err := header(name, max(size, 0))
	if err != nil || !bytes.Equal(got, want) {
		return 0, notIt
	}
	if left < size || left-size < padding(size) {
		return 0, fmt.Errorf("%w: the size of entry %s is %d, and %d bytes are left", ErrNotWhole, name, size, left)
	}
	b.at += block
	return size, nil
}

func (b *File) readSmall(name string) ([]byte, error) {
	size, err := b.entry(name)
	if err != nil {
		return nil, err
	}
	if size == 0 || size > maxSmall {
		return nil, fmt.Errorf("%w: the size of entry %s is %d", ErrNotWhole, name, size)
	}
	content := make([]byte, size)
	if _, err := b.f.ReadAt(content, b.at); err != nil {
		return nil, err
	}
	b.at += size
	return content, b.checkPadding(padding(size))
}

// checkPadding passes what follows an entry, which has to be nothing.
func (b *File) checkPadding(size int64) error {
	got := make([]byte, size)
	if _, err := b.f.ReadAt(got, b.at); err != nil {
		return err
	}
	if !bytes.Equal(got, make([]byte, size)) {
		return fmt.Errorf("%w: something is between two entries, at byte %d", ErrNotWhole, b.at)
	}
	b.at += size
	return nil
}

// checkObjects checks the last entry; b.at stays at its content.
func (b *File) checkObjects() (err error) {
	if b.objects, err = b.entry(objectsEntry); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := store.Check(io.TeeReader(io.NewSectionReader(b.f, b.at, b.objects), sum), b.Head.Revision)
	if err == nil && n != b.Head.Objects {
		err = fmt.Errorf("there are %d, and not %d", n, b.Head.Objects)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %s: %w", ErrNotWhole, objectsEntry, err)
	}
	b.sum = [sha256.Size]byte(sum.Sum(nil))
	at := b.at
	b.at += b.objects
	if err := b.checkPadding(padding(b.objects)); err != nil {
		return err
	}
	if b.at != b.size-trailerSize {
		return fmt.Errorf("%w: something follows entry %s", ErrNotWhole, objectsEntry)
	}
	b.at = at
	return nil
}

// summed ends with an error if what was read does not have the sum.
type summed struct {
	r    io.Reader
	sum  hash.Hash
	want [sha256.Size]byte
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n]) // never fails
	if errors.Is(err, io.EOF) && [sha256.Size]byte(s.sum.Sum(nil)) != s.want {
		err = fmt.Errorf("%w: it was changed while it was read", ErrNotWhole)
	}
	return n, err
}
