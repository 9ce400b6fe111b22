package disk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/peapod/peapod/store/mvcc"
)

const writtenBefore = 400

// wellFilled is what a crash leaves of a database with a table and an unfinished log: values /k002 to /k400, each of some KiB.
func wellFilled(t *testing.T) vfs.FS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	db := open(t, fs)
	data, rng := make([]byte, 8<<10), rand.NewChaCha8([32]byte{})
	for rev := int64(2); rev <= writtenBefore; rev++ {
		_, _ = rng.Read(data)
		if err := db.Commit(rev, []mvcc.Event{putEvent(rev, fmt.Sprintf("/k%03d", rev), string(data))}); err != nil {
			t.Fatal(err)
		}
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// What runs in the background may not have got far: the first opening makes tables of logs, the second finds a log that is new.
	db = open(t, crashed)
	for rev := int64(writtenBefore + 1); rev <= writtenBefore+20; rev++ {
		if err := db.Commit(rev, []mvcc.Event{putEvent(rev, fmt.Sprintf("/k%03d", rev), string(data))}); err != nil {
			t.Fatal(err)
		}
	}
	again := crashed.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return again
}

// last is the file of a kind with the highest number.
func last(t *testing.T, fs vfs.FS, pattern string) string {
	t.Helper()
	names, err := fs.List("data")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	found := ""
	for _, name := range names {
		if ok, err := filepath.Match(pattern, name); err != nil {
			t.Fatal(err)
		} else if ok {
			found = name
		}
	}
	if found == "" {
		t.Fatalf("there is no %s among %v", pattern, names)
	}
	return "data/" + found
}

func tables(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("data")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool { return filepath.Ext(name) != ".sst" })
}

// rewrite changes what is in a file; nil removes it.
func rewrite(t *testing.T, fs vfs.FS, name string, change func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := fs.Remove(name); err != nil {
		t.Fatal(err)
	}
	if b = change(b); b == nil {
		return
	}
	if f, err = fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func gone([]byte) []byte         { return nil }
func half(b []byte) []byte       { return b[:len(b)/2] }
func flipped(b []byte) []byte    { b[len(b)/2] ^= 4; return b }
func flippedEnd(b []byte) []byte { b[len(b)-1] ^= 4; return b }

// TestDamage checks that a store whose files are not as they were written is not served, and that the error says which file it is
// about. What a crash can leave is no damage.
func TestDamage(t *testing.T) {
	for _, test := range []struct {
		what, file string
		change     func([]byte) []byte
		// want is in the error, besides the name of the file; empty where the directory opens.
		want string
	}{
		{"nothing", "FORMAT", func(b []byte) []byte { return b }, ""},
		{"a log that ends early", "*.log", half, ""},
		{"a changed bit in a log", "*.log", flipped, "invalid chunk"},
		{"a changed bit in a table", "*.sst", flipped, "checksum mismatch"},
		{"a changed bit at the end of a table", "*.sst", flippedEnd, "bad magic number"},
		{"half a table", "*.sst", half, "size mismatch"},
		{"no table", "*.sst", gone, "does not exist"},
		{"no manifest", "MANIFEST-*", gone, "could not open manifest"},
		{"no marker", "marker.manifest.*", gone, "no marker.manifest"},
		{"half a format", "FORMAT", func([]byte) []byte { return []byte{} }, "has no format number"},
	} {
		t.Run(test.what, func(t *testing.T) {
			fs := wellFilled(t)
			name := last(t, fs, test.file)
			rewrite(t, fs, name, test.change)
			was := tables(t, fs)
			db, err := Open(Config{Dir: "data", FS: fs})
			if err == nil {
				_, err = db.Load(func(*mvcc.Value) {})
				if cerr := db.Close(); cerr != nil {
					t.Error(cerr)
				}
			}
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var damaged *DamagedError
			if !errors.As(err, &damaged) {
				t.Fatalf("the error is %v", err)
			}
			file, _, _ := strings.Cut(filepath.Base(name), ".")
			for _, text := range []string{file, test.want, "restore this directory from a backup"} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error lacks %q: %v", text, err)
				}
			}
			if strings.Contains(err.Error(), "stack trace") {
				t.Errorf("the error is not for users: %v", err)
			}
			// The others may go on with tables of their own until they find the damage.
			if now := tables(t, fs); test.want == "no marker.manifest" && !slices.Equal(now, was) {
				t.Errorf("the tables were %v and are %v", was, now)
			}
		})
	}
}
