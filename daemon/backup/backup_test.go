package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/peapod/peapod/store"
)

// entry is one of an archive that a test makes.
type entry struct {
	head    []byte
	name    string
	content []byte
	// fill is what is between this entry and the next.
	fill byte
}

// archive is one of these entries, with a sum that is right.
func archive(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		h := e.head
		if h == nil {
			var err error
			if h, err = header(e.name, int64(len(e.content))); err != nil {
				t.Fatal(err)
			}
		}
		b.Write(h)
		b.Write(e.content)
		b.Write(bytes.Repeat([]byte{e.fill}, int(padding(int64(len(e.content))))))
	}
	end, err := trailer(sha256.Sum256(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), end...)
}

// objects is the copy of a store with one object.
var objects = []byte("\x02/a\x08\x01\x01\x01\x00data")

func snapshot(t *testing.T) store.Snapshot {
	t.Helper()
	cfg := store.Config{Dir: filepath.Join(t.TempDir(), "store")}
	if err := store.Fill(t.Context(), cfg, bytes.NewReader(objects), 5); err != nil {
		t.Fatal(err)
	}
	s, err := store.Read(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// some is a cluster as small as it can be.
func some() Cluster {
	c := Cluster{Head: Head{Version: "v1"}, Record: []byte("record\n"), Keys: map[string][]byte{}}
	for _, name := range keyNames {
		c.Keys[name] = []byte("the key " + name)
	}
	return c
}

// good are the entries of some cluster's backup.
func good(t *testing.T) []entry {
	t.Helper()
	head, err := json.Marshal(Head{Format: format, Version: "v1", Revision: 5, Objects: 1})
	if err != nil {
		t.Fatal(err)
	}
	entries := []entry{{name: headEntry, content: head}, {name: recordEntry, content: some().Record}}
	for _, name := range keyNames {
		entries = append(entries, entry{name: keyEntry(name), content: some().Keys[name]})
	}
	return append(entries, entry{name: objectsEntry, content: objects})
}

// opened opens a file of that content.
func opened(t *testing.T, content []byte) (*File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path)
	if err == nil {
		t.Cleanup(func() { b.Close() })
	}
	return b, err
}

// What is written is read, by tar too, and lies in a file of its own for its owner alone.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.tar")
	h, size, err := Keep(path, func(w io.Writer) error { return Write(t.Context(), w, some(), snapshot(t)) })
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() != size {
		t.Errorf("%v, %v; %d bytes", info, err, size)
	}
	want := some()
	want.Head.Format, want.Head.Revision, want.Head.Objects = format, 5, 1
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := fmt.Sprint(b.Cluster); got != fmt.Sprint(want) || b.Head != h {
		t.Errorf("got %s, %+v\nwant %v", got, h, want)
	}
	if got, err := io.ReadAll(b.Objects()); err != nil || !bytes.Equal(got, objects) {
		t.Errorf("objects: %q, %v", got, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "backup.json peapod.json pki/server-ca.pem pki/client-ca.pem pki/service-account.pem pki/front-proxy-ca.pem objects sha256" {
		t.Errorf("tar finds %s", got)
	}
	// Neither it nor a link is written over, and nothing is left beside.
	if err := os.Symlink("nowhere", path+"-link"); err != nil {
		t.Fatal(err)
	}
	for _, there := range []string{path, path + "-link"} {
		if _, _, err := Keep(there, func(io.Writer) error { t.Error("it was begun"); return nil }); err == nil || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("a second backup to %s: %v", there, err)
		}
	}
	if err := nameNew(path, path+"-link"); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a name that was taken meanwhile: %v", err)
	}
}

// A backup that fails, or that is not what it should be, is not there.
func TestKeepNothing(t *testing.T) {
	dir := t.TempDir()
	cut := errors.New("cut off")
	for name, write := range map[string]func(io.Writer) error{
		"an error": func(w io.Writer) error { return errors.Join(Write(t.Context(), w, some(), snapshot(t)), cut) },
		"half": func(w io.Writer) error {
			var b bytes.Buffer
			if err := Write(t.Context(), &b, some(), snapshot(t)); err != nil {
				return err
			}
			_, err := w.Write(b.Bytes()[:b.Len()-trailerSize])
			return err
		},
	} {
		if _, _, err := Keep(filepath.Join(dir, "b"), write); !errors.Is(err, cut) && !errors.Is(err, ErrNotWhole) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s leaves %v, %v", name, left, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, io.Discard, some(), snapshot(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was interrupted: %v", err)
	}
	more := some()
	more.Keys["another"] = []byte("key")
	if err := Write(t.Context(), io.Discard, more, snapshot(t)); err == nil {
		t.Error("a key was left out")
	}
}

// No bit may be another, and no byte missing or too many.
func TestEveryBitCounts(t *testing.T) {
	whole := archive(t, good(t))
	if _, err := opened(t, whole); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, content []byte) {
		t.Helper()
		if b, err := opened(t, content); !errors.Is(err, ErrNotWhole) {
			t.Fatalf("%s: %+v, %v", what, b, err)
		}
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(whole); err != nil {
		t.Fatal(err)
	}
	for n, is := range whole {
		for _, b := range []byte{is ^ 1<<(n%8), is} { // changed, and changed back
			if _, err := f.WriteAt([]byte{b}, int64(n)); err != nil {
				t.Fatal(err)
			}
			if _, err := read(f); b != is && !errors.Is(err, ErrNotWhole) {
				t.Fatalf("a bit of byte %d: %v", n, err)
			}
		}
	}
	for n := 0; n < len(whole); n += 97 {
		refused(fmt.Sprintf("only %d bytes", n), whole[:n])
	}
	refused("all but a byte", whole[:len(whole)-1])
	refused("a byte more", append(slices.Clone(whole), 0))
	refused("twice", append(slices.Clone(whole), whole...))
}

// TestMadeUp opens archives whose sum is right, and which Write would not have written.
func TestMadeUp(t *testing.T) {
	tarHeader := func(h tar.Header) []byte {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	head := func(h Head) []byte {
		b, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	without := func(n int) []entry { return slices.Delete(good(t), n, n+1) }
	instead := func(n int, e entry) []entry {
		entries := good(t)
		entries[n] = e
		return entries
	}
	swapped := good(t)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	last := len(good(t)) - 1
	large, err := header(objectsEntry, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	negative := slices.Clone(large)
	negative[124+4] |= 0x80
	for name, entries := range map[string][]entry{
		"nothing":                 nil,
		"no head":                 without(0),
		"no key":                  without(3),
		"no objects":              without(last),
		"another order":           swapped,
		"an entry twice":          slices.Insert(good(t), 1, good(t)[0]),
		"an entry more":           append(good(t), entry{name: "more", content: []byte("x")}),
		"a way out":               instead(1, entry{name: "../peapod.json", content: []byte("record\n")}),
		"a name from the root":    instead(2, entry{name: "/pki/server-ca.pem", content: []byte("key")}),
		"a way out at the end":    append(good(t), entry{name: "../../etc/cron.d/x", content: []byte("x")}),
		"a link":                  instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeSymlink, Name: recordEntry, Linkname: "/etc/shadow"})}),
		"a hard link":             instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeLink, Name: recordEntry, Linkname: "/etc/shadow"})}),
		"a directory":             instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeDir, Name: recordEntry, Mode: 0o700})}),
		"a device":                instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeBlock, Name: recordEntry})}),
		"another mode":            instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeReg, Name: recordEntry, Mode: 0o4755, Size: 1}), content: []byte("x")}),
		"records of PAX":          instead(1, entry{head: tarHeader(tar.Header{Typeflag: tar.TypeReg, Name: recordEntry, Mode: 0o600, Size: 1, PAXRecords: map[string]string{"a.b": strings.Repeat("c", 9000)}}), content: []byte("x")}),
		"a size without end":      instead(last, entry{head: large, content: objects}),
		"a size below nothing":    instead(last, entry{head: negative, content: objects}),
		"a size that is no size":  instead(last, entry{head: bytes.Repeat([]byte{'9'}, block), content: objects}),
		"a large record":          instead(1, entry{name: recordEntry, content: make([]byte, maxSmall+1)}),
		"an empty key":            instead(2, entry{name: "pki/server-ca.pem"}),
		"a head that is none":     instead(0, entry{name: headEntry, content: []byte("[]")}),
		"more objects than told":  instead(0, entry{name: headEntry, content: head(Head{Format: format, Revision: 5})}),
		"objects of the future":   instead(0, entry{name: headEntry, content: head(Head{Format: format, Revision: 0, Objects: 1})}),
		"objects that are none":   instead(last, entry{name: objectsEntry, content: []byte("../../etc/passwd")}),
		"something in between":    instead(1, entry{name: recordEntry, content: some().Record, fill: 1}),
		"something at the end":    instead(last, entry{name: objectsEntry, content: objects, fill: 1}),
		"something after a block": instead(last, entry{name: objectsEntry, content: append(slices.Clone(objects), 0)}),
	} {
		if b, err := opened(t, archive(t, entries)); !errors.Is(err, ErrNotWhole) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	_, err = opened(t, archive(t, instead(0, entry{name: headEntry, content: head(Head{Format: 99, Version: "v9"})})))
	if err == nil || !strings.Contains(err.Error(), "by v9 (format 99)") {
		t.Errorf("a later format: %v", err)
	}
	for _, path := range []string{t.TempDir(), os.DevNull} {
		if _, err := Open(path); !errors.Is(err, ErrNotWhole) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A file that is changed after it was checked is not taken for what it was.
func TestChangedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, archive(t, good(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("DATA"), b.at+b.objects-4); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b.Objects()); !errors.Is(err, ErrNotWhole) {
		t.Errorf("%q, %v", got, err)
	}
}
