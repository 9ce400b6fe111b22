package instance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/peapod/peapod/internal/cidrs"
)

func TestAtNamesByRealPath(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	a, err := At(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := At(filepath.Join(link, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("one directory by two paths gives two instances: %+v and %+v", a, b)
	}
	if _, err := At("/tmp/a:b"); err == nil {
		t.Error("a path that overlay mounts cannot name was accepted")
	}
}

func TestLockKeepsSecondServerOut(t *testing.T) {
	i, err := At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := i.Running(); err != nil || s != nil {
		t.Fatalf("Running on a free directory: %v, %v", s, err)
	}
	l, err := i.Lock()
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.Lock()
	var running *RunningError
	if !errors.As(err, &running) || running.PID != os.Getpid() {
		t.Fatalf("second lock: %v", err)
	}
	s, err := i.Running()
	if err != nil || s == nil || s.PID != os.Getpid() {
		t.Fatalf("Running: %v, %v", s, err)
	}
	s.Close()
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if s, err := i.Running(); err != nil || s != nil {
		t.Fatalf("Running after release: %v, %v", s, err)
	}
}

// TestLookersDoNotKeepAServerOut has a server start again and again while others look whether one runs, as each verb does.
func TestLookersDoNotKeepAServerOut(t *testing.T) {
	i, err := At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var looking errgroup.Group
	for range 4 {
		looking.Go(func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				s, err := i.Running()
				if err != nil {
					return err
				}
				if s != nil {
					s.Close()
				}
			}
		})
	}
	for range 1000 {
		l, err := i.Lock()
		if err != nil {
			t.Error(err)
			break
		}
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	if err := looking.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	i, err := At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Open("v1"); err != nil {
		t.Fatal(err)
	}
	newer := []byte(`{"format": 99, "version": "v9.9.9"}`)
	if err := os.WriteFile(i.RecordFile(), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	err = i.Open("v1")
	if err == nil || !strings.Contains(err.Error(), "made by v9.9.9 (format 99)") {
		t.Fatalf("Open of a newer directory: %v", err)
	}
	if b, _ := os.ReadFile(i.RecordFile()); string(b) != string(newer) {
		t.Errorf("the refused directory was changed: %s", b)
	}
}

func TestChoose(t *testing.T) {
	p := netip.MustParsePrefix
	l := func(text string) cidrs.List { return cidrs.Of(p(text)) }
	first, err := choose(Ranges{}, []netip.Prefix{p("0.0.0.0/0"), p("10.1.0.0/24")}, nil, "/a")
	if err != nil || !first.Cluster.Equal(l("10.244.0.0/16")) || !first.Service.Equal(l("10.96.0.0/16")) {
		t.Fatalf("first choice: %v, %v", first, err)
	}
	second, err := choose(Ranges{}, []netip.Prefix{p("10.244.0.7/32"), p("10.97.3.0/24")}, nil, "/a")
	if err != nil || second.overlaps(p("10.244.0.7/32")) || second.overlaps(p("10.97.3.0/24")) {
		t.Fatalf("choice beside used addresses: %v, %v", second, err)
	}
	dir := t.TempDir()
	third, err := choose(Ranges{}, nil, map[string]claim{"x": {dir, first}}, "/a")
	if err != nil || third.overlaps(first.Cluster...) || third.overlaps(first.Service...) {
		t.Fatalf("choice beside another instance: %v, %v", third, err)
	}
	gone, err := choose(Ranges{}, nil, map[string]claim{"x": {dir + "/gone", first}}, "/a")
	if err != nil || gone.String() != first.String() {
		t.Fatalf("choice beside an instance that is gone: %v, %v", gone, err)
	}
	_, err = choose(Ranges{Cluster: l("10.0.0.0/8"), Service: l("10.96.0.0/16")}, nil, nil, "/a")
	if err == nil {
		t.Error("ranges that overlap each other were accepted")
	}
}

// A server that has taken the lock and not yet written its process ID is not there yet: that is no error.
func TestRunningBeforeItSaysWho(t *testing.T) {
	i, err := At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := i.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if err := lock.f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if s, err := i.Running(); s != nil || err != nil {
		t.Errorf("running is %v, %v", s, err)
	}
}

// TestClaims: instances that come and go at the same time never have the same addresses, and the last leaves nothing.
func TestClaims(t *testing.T) {
	var mu sync.Mutex
	held := map[string]bool{}
	var group errgroup.Group
	for range 3 {
		group.Go(func() error {
			for range 200 {
				i, err := At(t.TempDir())
				if err != nil {
					return err
				}
				got, err := i.ClaimRanges(Ranges{}, nil)
				if err != nil {
					return err
				}
				mu.Lock()
				twice := held[got.String()]
				held[got.String()] = true
				mu.Unlock()
				if twice {
					return fmt.Errorf("%v was given twice", got)
				}
				mu.Lock()
				delete(held, got.String())
				mu.Unlock()
				if err := i.ReleaseClaim(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	claims, err := readClaims()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claims {
		if strings.HasPrefix(c.DataDir, filepath.Dir(t.TempDir())) {
			t.Errorf("the claim of %s is left", c.DataDir)
		}
	}
	if _, err := os.Stat(RunRoot); len(claims) == 0 && err == nil {
		if left, err := os.ReadDir(RunRoot); err != nil || len(left) == 0 {
			t.Errorf("%s is left, and empty", RunRoot)
		}
	}
}
