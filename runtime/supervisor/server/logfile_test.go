//go:build cgo

package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLineSplitter(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name   string
		chunks []string
		want   []string // tag, space, content
	}{
		{"lines", []string{"a\nb\n"}, []string{"F a", "F b"}},
		{"line in chunks", []string{"a", "b", "c\nd\n"}, []string{"F abc", "F d"}},
		{"empty lines", []string{"\n\n"}, []string{"F ", "F "}},
		{"unended", []string{"a\nb"}, []string{"F a", "P b"}},
		{"just fits", []string{long + "\n"}, []string{"F " + long}},
		{"too long", []string{long, "y\n"}, []string{"P " + long, "F y"}},
		{"much too long", []string{long + long + "yz", "\n"}, []string{"P " + long, "P " + long, "F yz"}},
		{"nothing", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			log, err := openLogFile(dir, "log", t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			s := lineSplitter{stream: "stderr"}
			for _, c := range test.chunks {
				s.write(log, []byte(c))
			}
			s.flush(log)
			log.close()
			body, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, line := range strings.Split(strings.TrimSuffix(string(body), "\n"), "\n") {
				if _, rest, ok := strings.Cut(line, " stderr "); ok {
					got = append(got, rest)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %.100q, want %.100q", got, test.want)
			}
		})
	}
}

// TestLogFullDisk: entries that do not fit are lost whole, and the log goes on when there is room again.
func TestLogFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs root: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	log, err := openLogFile(dir, "log", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	s := lineSplitter{stream: "stdout"}
	for i := range 200 {
		s.write(log, []byte(fmt.Sprintf("%04d %s\n", i, strings.Repeat("x", 1000))))
	}
	if !log.failing {
		t.Fatal("the disk is not full")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=256k"); err != nil {
		t.Fatal(err)
	}
	s.write(log, []byte("again\n"))
	body, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	for i, line := range lines[:len(lines)-1] {
		if !strings.Contains(line, fmt.Sprintf(" stdout F %04d xxx", i)) || len(line) < 1000 {
			t.Fatalf("entry %d is %q", i, line)
		}
	}
	if last := lines[len(lines)-1]; !strings.HasSuffix(last, " stdout F again") {
		t.Errorf("last entry is %q", last)
	}
}

func TestOpenBeneath(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link/log", "link", "../log", filepath.Join(outside, "log"), "fifo", "."} {
		if f, err := openBeneath(dir, name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
}
