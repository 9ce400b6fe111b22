package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/store/mvcc"
)

func open(t *testing.T, fs vfs.FS) *DB {
	t.Helper()
	db, err := Open(Config{Dir: "data", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// load reads everything as "key@mod=data".
func load(t *testing.T, db *DB) (int64, []string) {
	t.Helper()
	var got []string
	rev, err := db.Load(func(v *mvcc.Value) {
		got = append(got, fmt.Sprintf("%s@%d=%s", v.Key, v.Mod, v.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	return rev, got
}

func putEvent(rev int64, key, data string) mvcc.Event {
	return mvcc.Event{Rev: rev, Key: key, Cur: &mvcc.Value{Key: key, Data: []byte(data), Create: rev, Mod: rev, Version: 1}}
}

func deleteEvent(rev int64, key string) mvcc.Event {
	return mvcc.Event{Rev: rev, Key: key, Prev: &mvcc.Value{Key: key}}
}

func TestReopen(t *testing.T) {
	fs := vfs.NewMem()
	db := open(t, fs)
	if rev, got := load(t, db); rev != 0 || got != nil {
		t.Errorf("a new database holds %v at %d", got, rev)
	}
	full := &mvcc.Value{Key: "/a", Data: []byte("x"), Create: 2, Mod: 5, Version: 3, Expires: -7}
	if err := db.Commit(6, []mvcc.Event{{Rev: 5, Key: "/a", Cur: full}, putEvent(6, "/b", "")}); err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(8, []mvcc.Event{deleteEvent(7, "/b"), putEvent(8, "/c", "z")}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, fs)
	defer db.Close()
	rev, got := load(t, db)
	if want := "[/a@5=x /c@8=z]"; rev != 8 || fmt.Sprint(got) != want {
		t.Errorf("reopened: %v at %d, want %s at 8", got, rev, want)
	}
	if _, err := db.Load(func(v *mvcc.Value) {
		if v.Key == "/a" && (v.Create != 2 || v.Mod != 5 || v.Version != 3 || v.Expires != -7) {
			t.Errorf("reopened: %+v, want %+v", v, full)
		}
	}); err != nil {
		t.Error(err)
	}
}

// TestLargeInNewDirectories checks that a value which is larger than the database likes, in directories that have just been
// made, outlives a crash that takes all that was not synced.
func TestLargeInNewDirectories(t *testing.T) {
	fs := vfs.NewCrashableMem()
	cfg := Config{Dir: "new/and/deep", FS: fs}
	db, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 1500<<10)
	for rev := int64(2); rev < 6; rev++ {
		if err := db.Commit(rev, []mvcc.Event{putEvent(rev, fmt.Sprint("/k", rev), large)}); err != nil {
			t.Fatal(err)
		}
	}
	cfg.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if rev, got := load(t, db); rev != 5 || len(got) != 4 {
		t.Errorf("%d values at revision %d", len(got), rev)
	}
}

func TestDamagedValue(t *testing.T) {
	if _, err := DecodeValue([]byte("k"), []byte{0x80}); !errors.Is(err, errValue) {
		t.Errorf("decodeValue of half a number: %v", err)
	}
}

// TestSecondOpener checks that a directory is open once, also from within one process.
func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: dir})
	if !errors.Is(err, ErrInUse) || !strings.Contains(fmt.Sprint(err), dir) {
		t.Errorf("second Open: %v, want ErrInUse naming %s", err, dir)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, fs vfs.FS, name, text string) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFormat(t *testing.T) {
	fs := vfs.NewMem()
	if err := open(t, fs).Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, fs, "data/FORMAT", "7\n")
	_, err := Open(Config{Dir: "data", FS: fs})
	var newer *NewerFormatError
	if !errors.As(err, &newer) || newer.Has != 7 || newer.Know != Format {
		t.Fatalf("Open of a newer format: %v", err)
	}
	for _, part := range []string{"format 7", fmt.Sprint("formats up to ", Format), "data"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q does not say %q", err, part)
		}
	}
	writeFile(t, fs, "data/FORMAT", "nonsense")
	if _, err := Open(Config{Dir: "data", FS: fs}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("Open of a damaged format file: %v", err)
	}
	// A refused directory is not left locked.
	writeFile(t, fs, "data/FORMAT", "1\n")
	if err := open(t, fs).Close(); err != nil {
		t.Error(err)
	}
}

// TestCrash crashes at random instants, with a random part of what was not synced on disk, and checks that every
// acknowledged batch is there, that of the one under way there is all or nothing, and that the revision does not go back.
func TestCrash(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			fs := vfs.NewCrashableMem()
			var rev int64
			want := map[string]string{}
			for range 6 {
				db := open(t, fs)
				rev, want = crashRound(t, rng, db, fs, rev, want, &fs)
			}
		})
	}
}

// crashRound checks what db holds, commits some batches, and crashes during one of them: next is the file system after
// the crash.
func crashRound(t *testing.T, rng *rand.Rand, db *DB, fs *vfs.MemFS, rev int64, want map[string]string, next **vfs.MemFS) (int64, map[string]string) {
	t.Helper()
	check(t, db, rev, want)
	for range 1 + rng.IntN(30) {
		before := maps.Clone(want)
		var events []mvcc.Event
		for range 1 + rng.IntN(20) {
			rev++
			key := fmt.Sprintf("/k%03d", rng.IntN(200))
			if _, ok := want[key]; ok && rng.IntN(3) == 0 {
				delete(want, key)
				events = append(events, deleteEvent(rev, key))
				continue
			}
			data := strings.Repeat(fmt.Sprint(rev), 1+rng.IntN(400))
			want[key] = data
			events = append(events, putEvent(rev, key, data))
		}
		done := make(chan error, 1)
		crash := rng.IntN(15) == 0
		go func() { done <- db.Commit(rev, events) }()
		if crash {
			// The clone may show the batch or not, but nothing between.
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			*next = clone
			return settle(t, clone, rev-int64(len(events)), before, rev, want)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	*next = clone
	return rev, want
}

// holds says whether db is at rev and holds want.
func holds(t *testing.T, db *DB, rev int64, want map[string]string) bool {
	t.Helper()
	got := map[string]string{}
	at, err := db.Load(func(v *mvcc.Value) { got[v.Key] = string(v.Data) })
	if err != nil {
		t.Fatal(err)
	}
	return at == rev && maps.Equal(got, want)
}

func check(t *testing.T, db *DB, rev int64, want map[string]string) {
	t.Helper()
	if !holds(t, db, rev, want) {
		at, got := load(t, db)
		t.Fatalf("after the crash: revision %d with %d keys, want %d with %v", at, len(got), rev, len(want))
	}
}

// settle finds out whether a file system that a crash left shows the batch that was under way.
func settle(t *testing.T, fs *vfs.MemFS, revBefore int64, before map[string]string, revAfter int64, after map[string]string) (int64, map[string]string) {
	t.Helper()
	db := open(t, fs)
	defer func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	if holds(t, db, revAfter, after) {
		return revAfter, after
	}
	check(t, db, revBefore, before)
	return revBefore, before
}

// failing injects an error into what is written to files whose name ends in suffix, while on.
type failing struct {
	on     atomic.Bool
	suffix string
	err    error
}

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if f.on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && strings.HasSuffix(filepath.Base(op.Path), f.suffix) {
		return f.err
	}
	return nil
}

// TestFailedWrite checks that after a write to the log has failed nothing is written any more, that the error says why,
// and that what was acknowledged is there when the directory is opened again.
func TestFailedWrite(t *testing.T) {
	mem := vfs.NewCrashableMem()
	inject := &failing{suffix: ".log", err: syscall.ENOSPC}
	db := open(t, errorfs.Wrap(mem, inject))
	if err := db.Commit(2, []mvcc.Event{putEvent(2, "/a", "1")}); err != nil {
		t.Fatal(err)
	}
	inject.on.Store(true)
	err := db.Commit(3, []mvcc.Event{putEvent(3, "/b", "2")})
	if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("Commit on a full disk: %v", err)
	}
	inject.on.Store(false)
	if err := db.Commit(3, []mvcc.Event{putEvent(3, "/c", "3")}); !errors.Is(err, ErrFailed) {
		t.Errorf("Commit after a failure: %v", err)
	}
	if err := db.Failed(); !errors.Is(err, ErrFailed) {
		t.Errorf("Failed = %v", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close after a failure: %v", err)
	}
	db = open(t, mem)
	defer db.Close()
	if rev, got := load(t, db); rev < 2 || rev > 3 || got[0] != "/a@2=1" || slices.Contains(got, "/c@3=3") {
		t.Errorf("reopened: %v at %d", got, rev)
	}
}

// TestInjectedErrors fails the n-th write to the file system, whatever it is, for many n: Open or Commit may fail, but what was
// acknowledged is never lost.
func TestInjectedErrors(t *testing.T) {
	for n := int32(0); n < 90; n++ {
		mem := vfs.NewCrashableMem()
		var acknowledged int64
		db, err := Open(Config{Dir: "data", FS: errorfs.Wrap(mem, &nthWrite{n: n})})
		if err == nil {
			for rev := int64(2); rev < 12; rev++ {
				if err := db.Commit(rev, []mvcc.Event{putEvent(rev, fmt.Sprintf("/k%02d", rev), "x")}); err != nil {
					break
				}
				acknowledged = rev
			}
		}
		after := mem.CrashClone(vfs.CrashCloneCfg{})
		db2, err := Open(Config{Dir: "data", FS: after})
		if err != nil {
			t.Fatalf("write %d failed: open after it: %v", n, err)
		}
		rev, got := load(t, db2)
		if rev < acknowledged || int64(len(got)) < max(acknowledged-1, 0) {
			t.Errorf("write %d failed: %d keys at revision %d, acknowledged up to %d", n, len(got), rev, acknowledged)
		}
		if err := db2.Close(); err != nil {
			t.Error(err)
		}
		if db != nil {
			if err := db.Close(); err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("write %d failed: close: %v", n, err)
			}
		}
	}
}

// nthWrite fails one write operation.
type nthWrite struct {
	n    int32
	seen atomic.Int32
}

func (w *nthWrite) String() string { return "nthWrite" }

func (w *nthWrite) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && w.seen.Add(1)-1 == w.n {
		return syscall.EIO
	}
	return nil
}

// nearlyFull is a file system that says how much room it has.
type nearlyFull struct {
	vfs.FS
	free uint64
}

func (f *nearlyFull) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free, TotalBytes: 1 << 30, UsedBytes: 1<<30 - f.free}, nil
}

// TestReserve checks that writes are refused before the disk is full, that deletions still pass, and that writes pass again
// once there is room.
func TestReserve(t *testing.T) {
	fs := &nearlyFull{FS: vfs.NewMem(), free: 1 << 30}
	db := open(t, fs)
	defer db.Close()
	if err := db.Commit(2, []mvcc.Event{putEvent(2, "/a", "1")}); err != nil {
		t.Fatal(err)
	}
	fs.free = 40 << 20
	err := db.Commit(3, []mvcc.Event{putEvent(3, "/b", "2")})
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("put on a nearly full disk: %v", err)
	}
	if err := db.Commit(3, []mvcc.Event{deleteEvent(3, "/a")}); err != nil {
		t.Errorf("delete on a nearly full disk: %v", err)
	}
	fs.free = 1 << 20
	if err := db.Commit(4, []mvcc.Event{deleteEvent(4, "/a")}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("delete on a full disk: %v", err)
	}
	fs.free = 1 << 30
	if err := db.Commit(4, []mvcc.Event{putEvent(4, "/b", "2")}); err != nil {
		t.Errorf("put on a disk that has room again: %v", err)
	}
	if rev, got := load(t, db); rev != 4 || fmt.Sprint(got) != "[/b@4=2]" {
		t.Errorf("%v at %d", got, rev)
	}
}

// TestRealDiskFull fills a small file system of its own: what was acknowledged is there, and writing goes on when there is
// room again.
func TestRealDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("store-test", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("mounting a file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	// Another tenant of the file system has a part of it, and gives it back in the end.
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64<<10)
	rng := rand.NewChaCha8([32]byte{})
	rev := int64(1)
	for err == nil {
		_, _ = rng.Read(data)
		rev++
		err = db.Commit(rev, []mvcc.Event{putEvent(rev, fmt.Sprintf("/k%05d", rev), string(data))})
	}
	if !errors.Is(err, ErrNoSpace) || rev < 50 {
		t.Fatalf("write %d: %v", rev, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(rev, []mvcc.Event{deleteEvent(rev, "/k00002")}); err != nil {
		t.Errorf("delete where there is room again: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	at, got := load(t, db)
	if at != rev || int64(len(got)) != rev-3 {
		t.Errorf("reopened: %d keys at revision %d, want %d at %d", len(got), at, rev-3, rev)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
