// Package footprint gives a process more memory to collect garbage in while it is busy, and has it give back what it does not
// need once it is idle: a process that is idle most of its life should not stay as large as its start made it.
package footprint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what a Keeper is made from. The zero value is fine.
type Config struct {
	// Quiet is how long after a garbage collection, with no other following and little allocated, the process counts as idle; by
	// default 5 s. As the runtime collects every two minutes even if nothing happens, an idle process looks no oftener than that
	// at whether there is something to give back.
	Quiet time.Duration
	// Trimmed is called after memory was given back, with how many bytes of the heap; it may be nil.
	Trimmed func(bytes uint64)
}

const (
	defaultQuiet = 5 * time.Second
	// headroom is what may be allocated between two collections, in bytes, however small the heap: with the runtime's rule
	// alone, a start collects garbage more often. More makes an idle process larger, as what lives on is then scattered over
	// as much memory: 2 MB for 16. A server's 25 MB get 34 by the rule for what is larger.
	headroom = 16 << 20
	// usualPercent is the runtime's rule: as much again as lives.
	usualPercent = 100
	maxPercent   = 800
	// extra is what a heap larger than headroom may grow by beyond that rule, at most, in bytes. Up to there it gets twice as
	// much for what it has more than headroom, which makes a heap that is small when idle no larger.
	extra = 256 << 20
	// sudden is extra for a process that was idle until lately. What lives at the height of a burst is mostly on its way: with room for
	// as much again and more the burst ends sooner than the next collection, and what it leaves lies scattered over all of it.
	sudden = 32 << 20
	// steady is how many collections make work that goes on: at the pace of a heap of 100 MB, some ten seconds of it.
	steady = 32
	// allocations is the metric of all bytes that were ever allocated.
	allocations = "/gc/heap/allocs:bytes"
	// worthwhile is how much there must be to give back, in bytes: it takes a collection, some 20 ms of processor time.
	worthwhile = 4 << 20
)

// Keeper keeps a process's memory small. There is one in a process, as what it sets is the process's.
type Keeper struct {
	cfg Config
	// collected receives after collections; those that nobody has noticed yet count as one.
	collected chan struct{}
	stopped   atomic.Bool
	percent   int
	// worked counts the collections since the process was idle.
	worked int
	// allocated is how many bytes had been allocated when rested was last called.
	allocated uint64
}

// New makes a Keeper and gives the heap room from now on.
func New(cfg Config) *Keeper {
	if cfg.Quiet == 0 {
		cfg.Quiet = defaultQuiet
	}
	k := &Keeper{cfg: cfg, collected: make(chan struct{}, 1)}
	k.tune()
	return k
}

// Run gives back memory whenever the process has become idle, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	k.await()
	defer k.stopped.Store(true)
	idle := time.NewTimer(k.cfg.Quiet)
	defer idle.Stop()
	for {
		select {
		case <-k.collected:
			k.worked++
			k.tune()
			idle.Reset(k.cfg.Quiet)
			k.rested()
		case <-idle.C:
			if !k.rested() {
				idle.Reset(k.cfg.Quiet)
				continue
			}
			k.worked = 0
			// The collection that trim makes is waited for as any other; what it leaves is not worthwhile.
			if spare := reclaimable(); spare >= worthwhile {
				if err := trim(); err != nil {
					return err
				}
				if k.cfg.Trimmed != nil {
					k.cfg.Trimmed(spare)
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// rested says whether little was allocated since it was last called. A large heap has room for more than Quiet of work between
// collections: that none comes does not mean that the process is idle.
func (k *Keeper) rested() bool {
	before := k.allocated
	k.allocated = read(allocations)[0]
	return k.allocated-before <= headroom
}

// await has the next collection, and all after it, told to Run.
func (k *Keeper) await() {
	type garbage struct{ _ [64]byte } // too large to share its block with something that lives
	runtime.AddCleanup(new(garbage), func(k *Keeper) {
		select {
		case k.collected <- struct{}{}:
		default:
		}
		if !k.stopped.Load() {
			k.await()
		}
	}, k)
}

// tune sets how far the heap may grow from what lives now. Small differences are left alone: setting stops the world.
func (k *Keeper) tune() {
	percent := growth(max(read("/gc/heap/live:bytes")[0], 1<<20), k.worked >= steady)
	if diff := percent - k.percent; diff*4 > k.percent || -diff*4 > k.percent {
		debug.SetGCPercent(percent)
		k.percent = percent
	}
}

// growth is by how many per cent a heap of which so many bytes live may grow before garbage is collected, in a process that works and has
// for a while, or has not.
func growth(live uint64, longSince bool) int {
	room, beyond := uint64(headroom), uint64(sudden)
	if longSince {
		beyond = extra
	}
	if live > headroom {
		room = live*usualPercent/100 + min(live-headroom, beyond)
	}
	return int(min(room*100/live, maxPercent))
}

// reclaimable is how many bytes of the heap are free, or were not reachable any more at the last collection's end, or came since.
func reclaimable() uint64 {
	v := read("/memory/classes/heap/free:bytes", "/memory/classes/heap/objects:bytes", "/gc/heap/live:bytes")
	return v[0] + v[1] - min(v[2], v[1])
}

// read returns values of the runtime's metrics, which must be sizes.
func read(names ...string) []uint64 {
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	values := make([]uint64, len(names))
	for i, s := range samples {
		values[i] = s.Value.Uint64()
	}
	return values
}

// trim gives back all memory that can be: the heap's, and the pages of the executable. Those are read again when they
// are needed, from the page cache, some microseconds for 64 kB; most of them were needed once, at the start.
func trim() error {
	debug.FreeOSMemory()
	return forExecutable(func(from, to uintptr) error {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of the executable: %w", errno)
		}
		return nil
	})
}

// mapping is a part of the address space that is read from a file.
type mapping struct {
	from, to uintptr
	// changed says that pages of it are the process's own: what is in them is not in the file, whether or not they can be
	// written to now. Such are addresses that the loader filled in before it took away the right to write (RELRO).
	changed bool
}

// forExecutable calls fn with each mapping of the running executable whose pages are all as they are in the file.
func forExecutable(fn func(from, to uintptr) error) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the executable: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("find mappings of the executable: %w", err)
	}
	defer f.Close()
	mappings, err := readOnly(f, exe)
	if err != nil {
		return fmt.Errorf("find mappings of the executable: %w", err)
	}
	for _, m := range mappings {
		if m.changed {
			continue
		}
		if err := fn(m.from, m.to); err != nil {
			return err
		}
	}
	return nil
}

// readOnly reads the mappings of a file that cannot be written to, in the form of proc(5)'s smaps.
func readOnly(smaps io.Reader, path string) (mappings []mapping, err error) {
	wanted := false // the mapping that the present lines are about
	for lines := bufio.NewScanner(smaps); ; {
		if !lines.Scan() {
			return mappings, lines.Err()
		}
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") {
			// from-to, permissions, offset, device, inode, path
			from, to, ok := strings.Cut(fields[0], "-")
			a, errA := strconv.ParseUint(from, 16, 64)
			b, errB := strconv.ParseUint(to, 16, 64)
			if !ok || errA != nil || errB != nil || len(fields) < 5 {
				return nil, fmt.Errorf("read mapping %q", lines.Text())
			}
			wanted = strings.HasSuffix(lines.Text(), " "+path) && !strings.Contains(fields[1], "w")
			if wanted {
				mappings = append(mappings, mapping{from: uintptr(a), to: uintptr(b)})
			}
			continue
		}
		if wanted && (fields[0] == "Anonymous:" || fields[0] == "Swap:") && len(fields) > 1 && fields[1] != "0" {
			mappings[len(mappings)-1].changed = true
		}
	}
}
