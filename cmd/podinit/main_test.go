//go:build cgo

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the program that TestFirstThread starts: with the supervisor's arguments, so that it begins as the supervisor does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		fmt.Println(strings.Join(threads(), " "))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// threads says which threads a hundred goroutines get that keep theirs at the same time; "first" is that of the process.
func threads() []string {
	var all, got sync.WaitGroup
	out := make([]string, 100)
	leave := make(chan struct{})
	for i := range out {
		got.Add(1)
		all.Go(func() {
			runtime.LockOSThread()
			out[i] = "other"
			if unix.Gettid() == unix.Getpid() {
				out[i] = "first"
			}
			got.Done()
			<-leave
		})
	}
	got.Wait()
	close(leave)
	all.Wait()
	return out
}

// TestFirstThread: no goroutine of the supervisor's but the main one, and so none of libcontainer's, ever has the first thread.
func TestFirstThread(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "/proc/self/exe", "supervise").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != strings.TrimSpace(strings.Repeat("other ", 100)) {
		t.Errorf("threads: %s", got)
	}
}
