package footprint

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// resident returns what the process holds in memory, in kB: not any file's, and of its own executable.
func resident(t *testing.T) (anonymous, executable int) {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	own := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case !strings.HasSuffix(name, ":"):
			own = strings.HasSuffix(lines.Text(), exe)
		case name == "Anonymous:":
			anonymous += kilobytes(t, rest)
		case name == "Rss:" && own:
			executable += kilobytes(t, rest)
		}
	}
	return anonymous, executable
}

func kilobytes(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(s), " kB"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// work uses size bytes of memory and forgets them.
func work(size int) {
	block := make([]byte, size)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	runtime.KeepAlive(block)
}

// touchExecutable has every page of the executable in memory.
func touchExecutable(t *testing.T) {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if len(exe) == 0 {
		t.Fatal("the executable is empty")
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	err = forExecutable(func(from, to uintptr) error {
		_, err := mem.ReadAt(make([]byte, to-from), int64(from))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A process that has worked gives its memory back soon after, without being asked.
func TestIdleProcessShrinks(t *testing.T) {
	const size = 64 << 20
	trimmed := make(chan uint64, 1)
	k := New(Config{Quiet: 20 * time.Millisecond, Trimmed: func(n uint64) {
		select {
		case trimmed <- n:
		default:
		}
	}})
	touchExecutable(t)
	work(size)
	anonymous, executable := resident(t)
	if anonymous < size>>10 {
		t.Fatalf("%d kB are in use, want the %d kB just written at least", anonymous, size>>10)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	<-trimmed
	nowAnonymous, nowExecutable := resident(t)
	if nowAnonymous > anonymous-size>>10*9/10 {
		t.Errorf("%d kB are in use after %d kB were given back of %d kB", nowAnonymous, size>>10, anonymous)
	}
	if nowExecutable > executable*9/10 {
		t.Errorf("%d kB of the executable are in memory, of %d kB before", nowExecutable, executable)
	}
	// It shrinks again after more work: Run hears of later collections too.
	for again := false; !again; {
		work(size)
		runtime.GC()
		select {
		case <-trimmed:
			again = true
		case <-time.After(time.Second): // the runtime was quicker to give the memory back
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A process that allocates is busy, also if its heap is so large that nothing is collected meanwhile.
func TestBusyWithoutCollections(t *testing.T) {
	k := New(Config{})
	k.rested()
	if !k.rested() {
		t.Error("a process that did nothing is busy")
	}
	work(2 * headroom)
	if k.rested() {
		t.Error("a process that allocated more than headroom is idle")
	}
}

// What was written into a mapping of the executable before it became read-only stays: the loader does that to the addresses of
// functions.
func TestWhatTheLoaderWroteStays(t *testing.T) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	page, err := unix.Mmap(int(exe.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	}()
	const written = "an address"
	copy(page, written)
	if err := unix.Mprotect(page, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := trim(); err != nil {
		t.Fatal(err)
	}
	if got := string(page[:len(written)]); got != written {
		t.Errorf("the page says %q, want %q", got, written)
	}
}

// The room that a heap gets is headroom, or its own size if that is more, and as much as it has beyond headroom, to a bound, which is lower
// for a burst than for work that goes on.
func TestRoomFollowsTheHeap(t *testing.T) {
	k := New(Config{})
	small := k.percent
	if small <= usualPercent {
		t.Errorf("a small heap may grow by %d %%, want more than %d %%", small, usualPercent)
	}
	for live, want := range map[uint64][2]int{ // in a burst, and later
		1 << 20: {800, 800}, headroom / 2: {200, 200}, headroom: {100, 100}, headroom + sudden: {166, 166}, headroom + 2*sudden: {140, 180},
		headroom + 8*extra: {101, 112},
	} {
		for i, longSince := range []bool{false, true} {
			if got := growth(live, longSince); got != want[i] {
				t.Errorf("%d bytes that live may grow by %d %%, want %d %% (long since: %t)", live, got, want[i], longSince)
			}
		}
	}
	block := make([]byte, 4*headroom)
	runtime.GC()
	k.tune()
	if want := growth(uint64(len(block)), false); k.percent > want || k.percent < want*3/4 {
		t.Errorf("a heap of %d bytes may grow by %d %%, want %d %%", len(block), k.percent, want)
	}
	runtime.KeepAlive(block)
	block = nil
	runtime.GC()
	k.tune()
	if k.percent < small*3/4 {
		t.Errorf("a heap small again may grow by %d %%, want %d %%", k.percent, small)
	}
}
