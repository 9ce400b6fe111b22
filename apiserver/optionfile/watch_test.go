package optionfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// world is a file that is watched; what is put in force, or fails to be, comes out of puts.
type world struct {
	t    *testing.T
	file string
	// puts has what Put was called with, and counts what was told of it.
	puts, counts chan string
	// fail is what Put answers, by what the file holds.
	fail map[string]error
}

func watch(t *testing.T, first, now string, fail map[string]error) *world {
	t.Helper()
	w := &world{t: t, file: filepath.Join(t.TempDir(), "options.yaml"), puts: make(chan string, 100), counts: make(chan string, 100), fail: fail}
	w.write(now)
	f := File{Flag: "options", Path: w.file, InForce: []byte(first), Put: func(_ context.Context, data []byte) error {
		w.puts <- string(data)
		return w.fail[string(data)]
	}, Succeeded: func(data []byte) { w.counts <- "success " + string(data) }, Failed: func() { w.counts <- "failure" }}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if left := len(w.puts) + len(w.counts); left > 0 {
			t.Errorf("%d more", left)
		}
	})
	return w
}

// write puts a new file in the place of the old.
func (w *world) write(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) expect(put, count string) {
	w.t.Helper()
	w.next(w.puts, put)
	w.counted(count)
}

func (w *world) counted(want string) {
	w.t.Helper()
	w.next(w.counts, want)
}

func (w *world) next(from chan string, want string) {
	w.t.Helper()
	select {
	case got := <-from:
		if got != want {
			w.t.Errorf("%q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		w.t.Fatalf("not in time: %q", want)
	}
}

// Each change counts, a change back to what was in force before, too, and what is the same as what is in force does not.
func TestChangesCount(t *testing.T) {
	w := watch(t, "a", "a", nil)
	w.write("b")
	w.expect("b", "success b")
	w.write("b")
	w.write("a")
	w.expect("a", "success a")
	if err := os.WriteFile(w.file+".other", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.write("c")
	w.expect("c", "success c")
}

// What has changed since the file was first read counts.
func TestChangedBeforeWatched(t *testing.T) {
	w := watch(t, "a", "b", nil)
	w.expect("b", "success b")
}

// What makes no sense is tried once, until the file changes; what may come right with time is tried again. What was in force stays so.
func TestWhatCannotBePutInForce(t *testing.T) {
	fail := map[string]error{"nonsense": Invalid(errors.New("no")), "later": errors.New("not yet")}
	still := watch(t, "a", "nonsense", fail) // it has no more to tell when the other has tried again
	still.expect("nonsense", "failure")
	w := watch(t, "a", "a", fail)
	w.write("nonsense")
	w.expect("nonsense", "failure")
	if err := os.WriteFile(w.file+".other", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.write("later")
	w.expect("later", "failure")
	w.expect("later", "failure")
	w.write("b")
	for got := range w.puts { // it may have been tried once more meanwhile
		if got == "b" {
			break
		}
		w.counted("failure")
	}
	w.counted("success b")
}

// A file that is not there is told of, and what was in force stays so until there is one again.
func TestFileThatGoes(t *testing.T) {
	w := watch(t, "a", "a", nil)
	if err := os.Remove(w.file); err != nil {
		t.Fatal(err)
	}
	w.counted("failure")
	w.write("b")
	for got := range w.counts { // it is tried again while it is away
		if got == "success b" {
			break
		}
	}
	if got := <-w.puts; got != "b" {
		t.Error(got)
	}
}
