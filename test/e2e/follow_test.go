package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// follow returns a function that reads the next line of a file, waiting for it to be written.
func follow(t *testing.T, file string) func() string {
	t.Helper()
	cmd := exec.CommandContext(within(t, longest), "tail", "-n", "+1", "-f", file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	return func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no further line of %s: %v", file, lines.Err())
		}
		return lines.Text()
	}
}

// appears waits until a directory has an entry that is wanted, and returns its name.
func appears(t *testing.T, dir string, wanted func(name string) bool) string {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, patience)
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if wanted(e.Name()) {
				return e.Name()
			}
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatalf("no such file in time; %s holds %v", dir, entries)
		}
	}
}
