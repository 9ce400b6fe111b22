package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/disk"
	"github.com/peapod/peapod/store/mvcc"
)

// copyOf is what Copy writes, which is as long as CopySize says.
func copyOf(t *testing.T, s Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Copy(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != s.CopySize() {
		t.Errorf("the copy has %d bytes, and was to have %d", b.Len(), s.CopySize())
	}
	return b.Bytes()
}

// TestCopyUnderWrites takes snapshots while others write: each has all that was acknowledged before, of one revision, and a store that is
// filled with its copy holds the same, to the byte.
func TestCopyUnderWrites(t *testing.T) {
	s := openStore(t, Config{})
	r, err := s.New(killResource())
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 200
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var writing sync.WaitGroup
	half := make(chan struct{}, writers)
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				name := fmt.Sprintf("p%d-%d", w, n)
				if err := r.Create(context.Background(), podKey(name), pod(name), nil, uint64(n%2)*1000); err != nil {
					t.Error(err)
				}
				mu.Lock()
				acknowledged[name] = true
				mu.Unlock()
				if n == each/2 {
					half <- struct{}{}
				}
			}
		})
	}
	<-half
	mu.Lock()
	var want []string
	for name := range acknowledged {
		want = append(want, name)
	}
	mu.Unlock()
	snapshot := s.Snapshot()
	writing.Wait()

	b := copyOf(t, snapshot)
	if n, err := Check(bytes.NewReader(b), snapshot.Revision()); err != nil || n != snapshot.Len() {
		t.Fatalf("check: %d values, %v; want %d", n, err, snapshot.Len())
	}
	cfg := Config{Dir: "filled", FS: vfs.NewMem()}
	if err := Fill(t.Context(), cfg, bytes.NewReader(b), snapshot.Revision()); err != nil {
		t.Fatal(err)
	}
	stopped, err := Read(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if stopped.Revision() != snapshot.Revision() || !bytes.Equal(copyOf(t, stopped), b) {
		t.Errorf("at revision %d the filled store holds something else than the snapshot of revision %d", stopped.Revision(), snapshot.Revision())
	}
	filled := openStore(t, cfg)
	fr, err := filled.New(killResource())
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, p := range list(t, fr, storage.ListOptions{}).Items {
		there[p.Name] = true
	}
	for _, name := range want {
		if !there[name] {
			t.Errorf("%s was acknowledged before the snapshot, and is not in it", name)
		}
	}
	// It goes on where the other was.
	p := create(t, fr, pod("later"), 0)
	if p.ResourceVersion != fmt.Sprint(snapshot.Revision()+1) {
		t.Errorf("the next revision after %d is %s", snapshot.Revision(), p.ResourceVersion)
	}
}

func TestCopyOfNothing(t *testing.T) {
	empty := openStore(t, Config{}).Snapshot()
	cfg := Config{Dir: "filled", FS: vfs.NewMem()}
	if err := Fill(t.Context(), cfg, bytes.NewReader(copyOf(t, empty)), 7); err != nil {
		t.Fatal(err)
	}
	if s := openStore(t, cfg); s.Revision() != 7 || s.Snapshot().Len() != 0 {
		t.Errorf("%d values at revision %d", s.Snapshot().Len(), s.Revision())
	}
}

// TestCopyMadeUp reads what no store has written.
func TestCopyMadeUp(t *testing.T) {
	record := func(key string, create, mod, version, expires int64) string {
		v := &mvcc.Value{Key: key, Create: create, Mod: mod, Version: version, Expires: expires, Data: []byte("data")}
		return string(append(appendCopied(nil, v), v.Data...))
	}
	sized := func(n uint64, text string) string { return string(binary.AppendUvarint(nil, n)) + text }
	good := record("/a", 1, 2, 2, 0)
	for name, text := range map[string]string{
		"keys out of order":          record("/b", 1, 1, 1, 0) + good,
		"a key twice":                good + good,
		"no key":                     record("", 1, 1, 1, 0),
		"changed before it was made": record("/a", 3, 2, 1, 0),
		"made at no revision":        record("/a", 0, 2, 1, 0),
		"later than the snapshot":    record("/a", 1, 11, 1, 0),
		"never written":              record("/a", 1, 2, 0, 0),
		"expires before time":        record("/a", 1, 2, 1, -1),
		"a length without end":       strings.Repeat("\xff", 20),
		"a key that is too long":     sized(1<<40, "x"),
		"a value that is too long":   sized(2, "/a") + sized(1<<62, "x"),
		"a value without a header":   sized(2, "/a") + sized(0, ""),
		"an end in a key":            good + sized(9, "/b"),
		"an end after a key":         good + sized(2, "/b"),
		"an end in a value":          good[:len(good)-1],
	} {
		if n, err := Check(strings.NewReader(text), 10); !errors.Is(err, ErrCopy) {
			t.Errorf("%s: %d values, %v", name, n, err)
		}
		fs := vfs.NewMem()
		if err := Fill(t.Context(), Config{Dir: "d", FS: fs}, strings.NewReader(text), 10); !errors.Is(err, ErrCopy) {
			t.Errorf("fill with %s: %v", name, err)
		}
	}
	if n, err := Check(strings.NewReader(good), 10); n != 1 || err != nil {
		t.Errorf("a good one: %d, %v", n, err)
	}
	if _, err := Check(strings.NewReader(""), 0); !errors.Is(err, ErrCopy) {
		t.Errorf("a snapshot of revision 0: %v", err)
	}
}

// What stops a copy, or the filling of a store, comes back.
func TestCopyEnds(t *testing.T) {
	s := openStore(t, Config{})
	r, err := s.New(killResource())
	if err != nil {
		t.Fatal(err)
	}
	create(t, r, pod("some"), 0)
	b := copyOf(t, s.Snapshot())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Snapshot().Copy(ctx, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
	if err := Fill(ctx, Config{Dir: "d", FS: vfs.NewMem()}, bytes.NewReader(b), s.Revision()); !errors.Is(err, context.Canceled) {
		t.Errorf("fill: %v", err)
	}
	if err := Fill(t.Context(), Config{Dir: "d", FS: full{vfs.NewMem()}}, bytes.NewReader(b), s.Revision()); !errors.Is(err, disk.ErrNoSpace) {
		t.Errorf("fill a full disk: %v", err)
	}
}
