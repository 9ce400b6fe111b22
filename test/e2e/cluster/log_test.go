package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogTellsItsLastLinesOnce(t *testing.T) {
	l := &Log{File: filepath.Join(t.TempDir(), "log")}
	tell := func() string {
		t.Helper()
		var b strings.Builder
		if err := l.Tell(&b, "TestX"); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := tell(); got != "" {
		t.Errorf("a log that nobody wrote says %q", got)
	}
	f, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 400 {
		fmt.Fprintf(f, "W1121 1 mutation_detector.go:55] \"Mutation detector is enabled, this will result in memory leakage.\"\nline %d\n", i)
	}
	got := tell()
	if n := strings.Count(got, "\n"); n != excerpt+2 {
		t.Errorf("the excerpt has %d lines", n)
	}
	if !strings.HasPrefix(got, "--- TestX") || !strings.Contains(got, "line 250\n") || !strings.Contains(got, "line 399\n") {
		t.Errorf("the excerpt is\n%s", got)
	}
	if strings.Contains(got, "utation") || strings.Contains(got, "line 249\n") {
		t.Errorf("the excerpt has in it what it should not:\n%s", got)
	}
	if got := tell(); got != "" {
		t.Errorf("nothing new is told as %q", got)
	}
	fmt.Fprintln(f, "one more")
	if got := tell(); !strings.Contains(got, "---\none more\n---") {
		t.Errorf("one more line is told as %q", got)
	}
}

func TestLogTellsOfACrash(t *testing.T) {
	l := &Log{File: filepath.Join(t.TempDir(), "log")}
	f, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 1000 {
		if i == 300 {
			fmt.Fprintln(f, "fatal error: concurrent map writes")
		}
		fmt.Fprintln(f, "line", i)
	}
	var b strings.Builder
	if err := l.Tell(&b, "TestX"); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Count(got, "\n") != excerpt+2 || !strings.Contains(got, "line 299\nfatal error: concurrent map writes\nline 300\n") {
		t.Errorf("the excerpt is\n%s", got)
	}
}
