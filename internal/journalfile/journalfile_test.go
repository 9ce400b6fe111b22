package journalfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var writers = map[string]func(string, []byte) error{"Append": Append, "AppendSync": AppendSync}

func last(t *testing.T, path string) string {
	t.Helper()
	entry, err := Last(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(entry)
}

func TestTheLastEntryCounts(t *testing.T) {
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if _, err := Last(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("without a file: %v", err)
			}
			if err := write(path, []byte(`{}`)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("written without a file: %v", err)
			}
			if err := Create(path, []byte(`{"n":"none"}`)); err != nil {
				t.Fatal(err)
			}
			if err := Create(path, []byte(`{}`)); !errors.Is(err, os.ErrExist) {
				t.Errorf("made twice: %v", err)
			}
			if got := last(t, path); got != `{"n":"none"}` {
				t.Errorf("got %s", got)
			}
			for i := range 3 {
				entry := fmt.Sprintf(`{"n":%d}`, i)
				if err := write(path, []byte(entry)); err != nil {
					t.Fatal(err)
				}
				if got := last(t, path); got != entry {
					t.Errorf("got %s, want %s", got, entry)
				}
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

// A crash cuts an entry anywhere; whatever is left of it, the one before counts, and the next one after.
func TestAnEntryCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	first, second, third := `{"phase":"creating"}`, `{"phase":"ready","ip":"10.0.0.1"}`, `{"phase":"stopped"}`
	for cut := range len(second) + 1 {
		for _, prior := range []string{"", "\n" + first} {
			want := strings.TrimSpace(prior)
			if err := os.WriteFile(path, []byte(prior+("\n" + second)[:cut]), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := last(t, path); got != want {
				t.Errorf("cut after %d bytes: got %q, want %q", cut, got, want)
			}
			if err := Append(path, []byte(third)); err != nil {
				t.Fatal(err)
			}
			if got := last(t, path); got != third {
				t.Errorf("after a cut at %d bytes and another entry: got %q", cut, got)
			}
		}
	}
	// What a power cut may leave.
	if err := os.WriteFile(path, []byte("\n"+first+"\x00\x00\n\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := last(t, path); got != "" {
		t.Errorf("of garbage: got %q", got)
	}
}

func TestAJournalIsBounded(t *testing.T) {
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if err := Create(path, []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			largest := int64(0)
			for i := range 300 {
				entry := fmt.Sprintf(`{"n":%d,"filler":"%s"}`, i, strings.Repeat("x", 1000))
				if err := write(path, []byte(entry)); err != nil {
					t.Fatal(err)
				}
				if got := last(t, path); got != entry {
					t.Fatalf("entry %d: got %.20s", i, got)
				}
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				largest = max(largest, info.Size())
			}
			if largest < compactAt/2 || largest > compactAt+2000 {
				t.Errorf("it grew to %d bytes", largest)
			}
		})
	}
}

// A full disk leaves the entry before.
func TestAnEntryThatDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skipf("needs root: %v", err)
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "journal")
	if err := Create(path, []byte(`"small"`)); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Append(path, []byte(`"`+strings.Repeat("x", 20<<10)+`"`)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	after, err := os.Stat(path)
	if err != nil || after.Size() != before.Size() {
		t.Errorf("the file has %d bytes instead of %d, %v", after.Size(), before.Size(), err)
	}
	if got := last(t, path); got != `"small"` {
		t.Errorf("got %.20q", got)
	}
}
