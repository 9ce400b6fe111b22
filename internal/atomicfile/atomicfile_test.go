package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFilesAreReplaced(t *testing.T) {
	for name, write := range map[string]func(string, []byte, os.FileMode) error{"Write": Write, "Replace": Replace} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for _, text := range []string{"first", "2nd"} {
				if err := write(path, []byte(text), 0o400); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				if err != nil || string(got) != text {
					t.Errorf("got %q, %v", got, err)
				}
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o400 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			// What stood there stays where nothing can take its place.
			occupied := filepath.Join(filepath.Dir(path), "dir")
			if err := os.Mkdir(occupied, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := write(occupied, nil, 0o600); err == nil {
				t.Error("a directory was replaced")
			}
			if err := write(filepath.Join(occupied, "no", "such"), nil, 0o600); err == nil {
				t.Error("a file in no directory was written")
			}
		})
	}
}
