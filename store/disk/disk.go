package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/go-logr/logr"

	"github.com/peapod/peapod/store/mvcc"
)

// Config says where the data is.
type Config struct {
	// Dir is the directory; it is made if need be. It must be on a file system that keeps what it has synced.
	Dir string
	// FS is the file system, nil for the real one.
	FS vfs.FS
	// Reserve is how many bytes Commit leaves free on the file system; 0 for a twentieth of the file system, between 4
	// and 64 MiB; negative for none.
	Reserve int64
	// Log is told what happens in the background.
	Log logr.Logger
}

// Sizes of the database's buffers. All values are in memory anyway, so that the block cache serves compactions only.
const (
	cacheBytes    = 256 << 10
	memtableBytes = 2 << 20
	maxOpenFiles  = 64
)

var (
	// ErrNoSpace says that a batch was refused because the file system is nearly full.
	ErrNoSpace = errors.New("no space left on device")
	// ErrFailed says that something failed inside the database, so that it has to be opened again.
	ErrFailed = errors.New("the store is read-only until the server is started again")
	// ErrInUse says that another process, or this one, has the directory open.
	ErrInUse = errors.New("the data directory is in use by another server")
)

// DB is an open database. Commit and Close must not be called concurrently.
type DB struct {
	dir     string
	fs      vfs.FS
	reserve int64
	log     logr.Logger
	db      *pebble.DB
	lock    *pebble.Lock

	fenced atomic.Bool
	// lastLog is the log that was opened last, of which the database does not say that it could not read it.
	lastLog atomic.Pointer[string]
	mu      sync.Mutex
	failed  error

	key, value []byte
}

// Open opens the database in cfg.Dir and makes it where there is none.
func Open(cfg Config) (*DB, error) {
	d := &DB{dir: cfg.Dir, log: cfg.Log}
	inner := cfg.FS
	if inner == nil {
		inner = privateFS{vfs.Default}
		if abs, err := filepath.Abs(cfg.Dir); err == nil {
			d.dir = abs
		}
	}
	d.fs = errorfs.Wrap(inner, errorfs.InjectorFunc(d.fence))
	if err := d.open(cfg.Reserve); err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Dir, err)
	}
	return d, nil
}

func (d *DB) open(reserve int64) (err error) {
	if err := makeDir(d.fs, d.dir); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	d.lock, err = pebble.LockDirectory(d.dir, d.fs)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.lock.Close())
		}
	}()
	if err := checkFormat(d.fs, d.dir); err != nil {
		return err
	}
	d.reserve = d.reserveFor(reserve)
	if err := checkWhole(d.fs, d.dir); err != nil {
		return fmt.Errorf("look for the database: %w", err)
	}
	if err := d.openDatabase(); err != nil {
		return fmt.Errorf("open the database: %w", d.damaged(err))
	}
	return nil
}

// openDatabase makes an error of the panics with which the database reports that it cannot sync its directory.
func (d *DB) openDatabase() (err error) {
	defer recoverTo(func(cause error) { err = d.fail(cause) })
	d.db, err = pebble.Open(d.dir, d.options())
	if failed := d.Failed(); err == nil && failed != nil {
		// In place of the database, which shares the lock and is abandoned.
		err = errors.Join(failed, d.lock.Close())
	}
	return err
}

// recoverTo is to be deferred: it passes the error with which the database panics to fn.
func recoverTo(fn func(error)) {
	if r := recover(); r != nil {
		cause, ok := r.(error)
		if !ok {
			cause = fmt.Errorf("%v", r)
		}
		fn(cause)
	}
}

func (d *DB) options() *pebble.Options {
	o := &pebble.Options{
		FS:                          d.fs,
		Lock:                        d.lock,
		CacheSize:                   cacheBytes,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                maxOpenFiles,
		// Pinned, so that an upgrade of the library does not change what is on disk behind Format's back. It is the first whose
		// logs tell damage in what was synced from an end that a crash has torn off. Servers from before it read it too.
		FormatMajorVersion:         pebble.FormatWALSyncChunks,
		Logger:                     logger{d},
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
		EventListener:              &pebble.EventListener{BackgroundError: d.backgroundError, DataCorruption: d.found},
	}
	o.Experimental.FileCacheShards = 1
	o.Experimental.CompactionScheduler = &oneCompaction{}
	return o
}

// Load calls fn with every value, in the order of keys, and returns the latest revision, 0 for a new database.
func (d *DB) Load(fn func(*mvcc.Value)) (rev int64, err error) {
	rev, err = d.load(fn)
	return rev, d.damaged(err)
}

func (d *DB) load(fn func(*mvcc.Value)) (rev int64, err error) {
	stored, closer, err := d.db.Get(revisionKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load the revision: %w", err)
	}
	if len(stored) != 8 {
		return 0, errors.Join(fmt.Errorf("load the revision: %w", errValue), closer.Close())
	}
	rev = int64(binary.BigEndian.Uint64(stored))
	if err := closer.Close(); err != nil {
		return 0, fmt.Errorf("load the revision: %w", err)
	}
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyValue}, UpperBound: []byte{keyValue + 1}})
	if err != nil {
		return 0, fmt.Errorf("load the values: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := DecodeValue(it.Key()[1:], it.Value())
		if err != nil {
			return 0, errors.Join(fmt.Errorf("load %q: %w", it.Key()[1:], err), it.Close())
		}
		fn(v)
	}
	if err := it.Close(); err != nil {
		return 0, fmt.Errorf("load the values: %w", err)
	}
	return rev, nil
}

// Commit makes the events, up to revision rev, durable. Where it fails with ErrNoSpace nothing has happened; where it
// fails otherwise it is not known whether it has, and the database takes no more writes.
func (d *DB) Commit(rev int64, events []mvcc.Event) (err error) {
	if err := d.Failed(); err != nil {
		return err
	}
	if err := d.checkSpace(events); err != nil {
		return err
	}
	// The database panics where it cannot write its log.
	defer recoverTo(func(cause error) { err = d.fail(cause) })
	b := d.db.NewBatch()
	for i := range events {
		if err := d.add(b, &events[i]); err != nil {
			return errors.Join(fmt.Errorf("prepare a write of %q: %w", events[i].Key, err), b.Close())
		}
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(rev))
	if err := b.Set(revisionKey, n[:], nil); err != nil {
		return errors.Join(fmt.Errorf("prepare a write of the revision: %w", err), b.Close())
	}
	if err := d.db.Apply(b, pebble.Sync); err != nil {
		return d.fail(err)
	}
	// A failed write is also reported through the logger alone.
	if err := d.Failed(); err != nil {
		return err
	}
	return b.Close()
}

func (d *DB) add(b *pebble.Batch, e *mvcc.Event) error {
	d.key = appendKey(d.key[:0], e.Key)
	if e.Cur == nil {
		return b.Delete(d.key, nil)
	}
	d.value = AppendHeader(d.value[:0], e.Cur)
	op := b.SetDeferred(len(d.key), len(d.value)+len(e.Cur.Data))
	copy(op.Key, d.key)
	copy(op.Value[copy(op.Value, d.value):], e.Cur.Data)
	return op.Finish()
}

// Failed returns nil while the database takes writes, and otherwise ErrFailed with the cause.
func (d *DB) Failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// fail ends all writing. The first cause stays.
func (d *DB) fail(cause error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.fenced.Store(true)
		d.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
		d.log.Error(cause, "The store failed, it is read-only until the server is started again", "dir", d.dir)
	}
	return d.failed
}

// Close writes nothing more: everything acknowledged is already synced. After a failure the database cannot be shut
// down in order; it is abandoned behind the fence, and only the lock is given back.
func (d *DB) Close() error {
	var err error
	if d.Failed() == nil {
		err = d.db.Close()
	} else {
		// In place of the database, which shares the lock.
		err = d.lock.Close()
	}
	d.fenced.Store(true)
	if err = errors.Join(err, d.lock.Close()); err != nil {
		return fmt.Errorf("close store %s: %w", d.dir, err)
	}
	return nil
}

var errFenced = errors.New("the store has been closed")

// fence fails what would change files once the database has been given up.
func (d *DB) fence(op errorfs.Op) error {
	if op.Kind == errorfs.OpOpen && filepath.Ext(op.Path) == ".log" {
		d.lastLog.Store(&op.Path)
	}
	if d.fenced.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
		return errFenced
	}
	return nil
}

// backgroundError is called where flushing or compacting fails. Nothing is lost by that, the log has it all; the
// database tries again at once, and would do nothing else if it were not held up here.
func (d *DB) backgroundError(err error) {
	if d.fenced.Load() {
		return
	}
	d.log.Error(err, "The store could not write in the background, it will try again", "dir", d.dir)
	time.Sleep(backgroundRetry)
}

// backgroundRetry is the pause between attempts at background work that failed.
const backgroundRetry = time.Second

// logger passes on what the database has to say. What it calls fatal ends writing, not the process.
type logger struct{ d *DB }

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(format string, args ...any) {
	l.d.log.Info("The store's database reports an error", "err", fmt.Sprintf(format, args...))
}
func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err = cause
		}
	}
	_ = l.d.fail(err)
}
