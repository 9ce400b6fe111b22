package static

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	manifest "github.com/peapod/peapod/api/core/pod"
)

// told is what a Source tells, in order: + and - with the Pod's name and the image of its container.
type told chan string

func (c told) Declare(p *v1.Pod)  { c <- "+" + p.Name + " " + p.Spec.Containers[0].Image }
func (c told) Withdraw(p *v1.Pod) { c <- "-" + p.Name + " " + p.Spec.Containers[0].Image }

// want waits until these were told, and in between nothing else.
func (c told) want(t *testing.T, all ...string) {
	t.Helper()
	for _, want := range all {
		select {
		case got := <-c:
			if got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("not told %q", want)
		}
	}
}

func text(name, image string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: " + image + "}]}\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// put replaces a file at once.
func put(t *testing.T, path, text string) {
	t.Helper()
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	write(t, beside, text)
	if err := os.Rename(beside, path); err != nil {
		t.Fatal(err)
	}
}

func erase(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// follow reads what there is at path, and follows it until the test ends.
func follow(t *testing.T, path string) ([]*v1.Pod, told) {
	t.Helper()
	s := NewSource(SourceConfig{Path: path, NodeName: "n1", Format: manifest.NewManifest()})
	now := s.Read(t.Context())
	c := make(told, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(c) > 0 {
			t.Errorf("told %q too", <-c)
		}
	})
	return now, c
}

func TestFilesAreFollowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a, b, hidden := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.json"), filepath.Join(dir, ".c.yaml")
	write(t, a, text("a", "i:1"))
	write(t, hidden, text("hidden", "i:1"))
	write(t, filepath.Join(dir, "broken.yaml"), "kind: [")
	now, told := follow(t, dir)
	if len(now) != 1 || now[0].Name != "a-n1" {
		t.Fatalf("at first %v", now)
	}
	write(t, b, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}`)
	told.want(t, "+b-n1 i:1")
	put(t, a, text("a", "i:2"))
	told.want(t, "-a-n1 i:1", "+a-n1 i:2")
	put(t, a, "# a comment\n"+text("a", "i:2")) // the same Pod
	put(t, a, "half a fi")                      // not a Pod: what runs goes on
	put(t, a, text("a", "i:3"))
	told.want(t, "-a-n1 i:2", "+a-n1 i:3")
	erase(t, b)
	told.want(t, "-b-n1 i:1")
	erase(t, a)
	write(t, filepath.Join(dir, "d.yaml"), text("a", "i:3"))
	told.want(t, "-a-n1 i:3", "+a-n1 i:3")
}

// A file that goes and comes back is a Pod that ends, and one that begins.
func TestFileThatComesBack(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.yaml")
	write(t, a, text("a", "i:1"))
	_, told := follow(t, dir)
	put(t, filepath.Join(dir, "b.yaml"), text("b", "i:1")) // so that it runs
	told.want(t, "+b-n1 i:1")
	erase(t, a)
	put(t, a, text("a", "i:1"))
	told.want(t, "-a-n1 i:1", "+a-n1 i:1")
}

// The first of two files with Pods of one name counts, until it goes.
func TestTwoFilesOfOneName(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.yaml"), text("a", "i:1"))
	write(t, filepath.Join(dir, "2.yaml"), text("a", "i:2"))
	now, told := follow(t, dir)
	if len(now) != 1 || now[0].Spec.Containers[0].Image != "i:1" {
		t.Fatalf("at first %v", now)
	}
	erase(t, filepath.Join(dir, "1.yaml"))
	told.want(t, "-a-n1 i:1", "+a-n1 i:2")
}

// The directory may come later, go, and come again; a file may stand in its place.
func TestPathThatComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	now, told := follow(t, dir)
	if len(now) != 0 {
		t.Fatalf("at first %v", now)
	}
	for range 2 {
		other := dir + ".new"
		if err := os.Mkdir(other, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(other, "a.yaml"), text("a", "i:1"))
		if err := os.Rename(other, dir); err != nil {
			t.Fatal(err)
		}
		told.want(t, "+a-n1 i:1")
		put(t, filepath.Join(dir, "b.yaml"), text("b", "i:1"))
		told.want(t, "+b-n1 i:1")
		erase(t, filepath.Join(dir, "b.yaml"))
		told.want(t, "-b-n1 i:1")
		if err := os.Rename(dir, other); err != nil {
			t.Fatal(err)
		}
		told.want(t, "-a-n1 i:1")
		erase(t, other)
	}
	write(t, dir, text("f", "i:1"))
	told.want(t, "+f-n1 i:1")
	write(t, dir, text("f", "i:2"))
	told.want(t, "-f-n1 i:1", "+f-n1 i:2")
}

func TestNowhereToWatch(t *testing.T) {
	s := NewSource(SourceConfig{Path: filepath.Join(t.TempDir(), "no", "where"), NodeName: "n1", Format: manifest.NewManifest()})
	if err := s.Run(t.Context(), make(told)); err == nil || !strings.Contains(err.Error(), "--pod-manifest-path") {
		t.Errorf("error %v", err)
	}
}

func TestPodOfAFile(t *testing.T) {
	s := NewSource(SourceConfig{Path: "/etc/pods", NodeName: "n1", Format: manifest.NewManifest()})
	s.now = func() time.Time { return time.Unix(1, 0).UTC() }
	parse := func(path, text string) *v1.Pod {
		t.Helper()
		p, _, err := s.parse(path, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := parse("/etc/pods/a", strings.Replace(text("a", "i"), "spec: {", "spec: {priorityClassName: system-node-critical, tolerations: [{key: k, operator: Exists}], ", 1))
	if p.Name != "a-n1" || p.Namespace != "default" || p.Spec.NodeName != "n1" || len(p.UID) != 32 || *p.Spec.Priority != 2_000_001_000 {
		t.Errorf("pod %+v", p)
	}
	for key, want := range map[string]string{
		"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": string(p.UID), "kubernetes.io/config.seen": "1970-01-01T00:00:01Z",
	} {
		if got := p.Annotations[key]; got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if n := len(p.Spec.Tolerations); n != 2 || p.Spec.Tolerations[1] != (v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}) {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	if again := parse("/etc/pods/a", text("a", "i")); again.UID != parse("/etc/pods/a", "# said in other words\n"+text("a", "'i'")).UID {
		t.Error("the UID depends on how it is said")
	} else if again.UID == parse("/etc/pods/b", text("a", "i")).UID || again.UID == parse("/etc/pods/a", text("a", "j")).UID || again.UID == p.UID {
		t.Error("Pods that are not the same have the same UID")
	}
	named := strings.Replace(text("a", "i"), "name: a", "name: a, uid: 1-2", 1)
	if p := parse("/etc/pods/a", named); p.UID != "1-2" {
		t.Errorf("UID %s, want that of the file", p.UID)
	}
	if _, _, err := s.parse("/etc/pods/a", []byte(strings.Replace(named, "1-2", "../x", 1))); err == nil || !strings.Contains(err.Error(), "metadata.uid") {
		t.Errorf("a UID that is a path: %v", err)
	}
}

// Whoever writes a Pod to the API cannot pass it for one of the node's own, which nothing evicts.
func TestForeign(t *testing.T) {
	p := &v1.Pod{}
	if Foreign(p) != p {
		t.Error("an ordinary Pod was copied")
	}
	p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	if f := Foreign(p); Is(f) || Critical(f) || !Is(p) {
		t.Errorf("still the node's own: %v", f.Annotations)
	}
}
