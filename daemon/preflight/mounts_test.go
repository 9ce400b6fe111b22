package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of the mounts over a directory the innermost counts, also where the directory does not exist yet or the way there is a link.
func TestMountsAreShared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		flags uintptr
		want  Finding
	}{
		{unix.MS_SHARED, Finding{Found: dir + " is shared"}},
		{unix.MS_PRIVATE, Finding{Severity: Warning, Fix: "mount --make-rshared " + dir}},
		{unix.MS_SLAVE, Finding{Severity: Warning, Fix: "mount --make-rshared " + dir}},
	} {
		if err := unix.Mount("preflight", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		err := unix.Mount("", dir, "", step.flags, "")
		var got []Finding
		if err == nil {
			for _, of := range []string{dir, filepath.Join(dir, "not", "there"), link} {
				got = append(got, checkMounts(of))
			}
		}
		if err := errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			if f.Severity != step.want.Severity || f.Fix != step.want.Fix || !strings.HasPrefix(f.Found, dir+" is ") {
				t.Errorf("propagation %#x: %+v, want %+v", step.flags, f, step.want)
			}
		}
	}
}
