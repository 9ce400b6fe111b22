package store

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// writerDir, in the environment, makes the test binary the process that TestKill kills.
const writerDir = "STORE_TEST_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled counts up an annotation of eight pods at once, creates pods and deletes them, and tells what has been
// acknowledged: "set <pod> <count>", "created <pod>", "deleted <pod>", "revision <revision>".
func writeUntilKilled(dir string) error {
	s, err := Open(context.Background(), Config{Dir: dir, FS: vfs.Default})
	if err != nil {
		return err
	}
	r, err := s.New(killResource())
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range 8 {
		go func() { errs <- countUp(s, r, fmt.Sprint("p", w)) }()
	}
	return <-errs
}

func killResource() ResourceConfig {
	return ResourceConfig{
		ResourcePrefix: "/pods",
		Codec:          testCodec(),
		New:            func() runtime.Object { return &example.Pod{} },
		NewList:        func() runtime.Object { return &example.PodList{} },
	}
}

func countUp(s *Store, r *Resource, name string) error {
	ctx := context.Background()
	for {
		count := 0
		err := r.GuaranteedUpdate(ctx, podKey(name), &example.Pod{}, true, nil,
			storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
				p := obj.(*example.Pod)
				p.Name, p.Namespace = name, "ns"
				count, _ = strconv.Atoi(p.Annotations["n"])
				count++
				p.Annotations = map[string]string{"n": strconv.Itoa(count)}
				return p, nil
			}), nil)
		if err != nil {
			return err
		}
		fmt.Printf("set %s %d\nrevision %d\n", name, count, s.Revision())
		child := fmt.Sprintf("%s-%d", name, count)
		if err := r.Create(ctx, podKey(child), pod(child), nil, 0); err != nil {
			return err
		}
		fmt.Printf("created %s\n", child)
		if count%2 == 0 {
			if err := r.Delete(ctx, podKey(child), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				return err
			}
			fmt.Printf("deleted %s\n", child)
		}
	}
}

// told is what writers have been acknowledged, over all their lives.
type told struct {
	revision int64
	counts   map[string]int
	// children says of a pod that was created whether it has been deleted since.
	children map[string]bool
}

func (k *told) hear(line string) error {
	var name string
	var n int64
	switch {
	case scan(line, "set %s %d", &name, &n):
		k.counts[name] = max(k.counts[name], int(n))
	case scan(line, "revision %d", &n):
		k.revision = max(k.revision, n)
	case scan(line, "created %s", &name):
		k.children[name] = false
	case scan(line, "deleted %s", &name):
		k.children[name] = true
	default:
		return fmt.Errorf("the writer says %q", line)
	}
	return nil
}

func scan(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line, format, to...)
	return err == nil && n == len(to)
}

// check compares with the store as it is on disk now.
func (k *told) check(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir, FS: vfs.Default})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.New(killResource())
	if err != nil {
		t.Fatal(err)
	}
	if rev := s.Revision(); rev < k.revision {
		t.Errorf("revision %d, was %d", rev, k.revision)
	}
	there := map[string]bool{}
	for _, p := range list(t, r, storage.ListOptions{}).Items {
		there[p.Name] = true
		if strings.Contains(p.Name, "-") {
			continue
		}
		if n, err := strconv.Atoi(p.Annotations["n"]); err != nil || n < k.counts[p.Name] {
			t.Errorf("%s is at %q, acknowledged %d", p.Name, p.Annotations["n"], k.counts[p.Name])
		}
	}
	for name, deleted := range k.children {
		switch {
		case deleted && there[name]:
			t.Errorf("%s is back after its deletion", name)
		case !deleted && !there[name] && !k.mayBeDeleted(name):
			t.Errorf("%s is lost", name)
		}
	}
}

// mayBeDeleted says whether a writer deletes the child after it has created it: it may have without being told.
func (k *told) mayBeDeleted(child string) bool {
	_, n, _ := strings.Cut(child, "-")
	count, err := strconv.Atoi(n)
	return err == nil && count%2 == 0
}

// TestKill kills a process that writes, at random instants, and checks each time that nothing acknowledged is lost.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	k := &told{counts: map[string]int{}, children: map[string]bool{}}
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 4))
	for range 6 {
		kill(t, dir, 20+rng.IntN(800), k)
		k.check(t, dir)
	}
	if len(k.children) < 20 {
		t.Errorf("only %d pods were ever created", len(k.children))
	}
}

// kill runs a writer, kills it after it has said so many lines, and hears what else it has said.
func kill(t *testing.T, dir string, lines int, k *told) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	end := func() { once.Do(func() { _ = cmd.Process.Kill() }) }
	t.Cleanup(end)
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			// The last line may have been cut off.
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := k.hear(strings.TrimSuffix(line, "\n")); err != nil {
			t.Fatal(err)
		}
		if lines--; lines == 0 {
			end()
		}
	}
	if err := cmd.Wait(); err == nil || lines > 0 {
		t.Fatalf("the writer ended by itself: %v", err)
	}
}
