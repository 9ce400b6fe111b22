package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peapod/peapod/daemon/instance"
)

// rootDirTest is a machine with directories that nodes may have for their kubelets.
type rootDirTest struct {
	*testing.T
	base string
}

func newRootDirTest(t *testing.T) *rootDirTest {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &rootDirTest{t, base}
}

func (t *rootDirTest) path(names ...string) string {
	return filepath.Join(append([]string{t.base}, names...)...)
}

// node is one with a data directory of that name.
func (t *rootDirTest) node(name string) instance.Instance {
	t.Helper()
	i, err := instance.At(t.path(name))
	if err != nil {
		t.Fatal(err)
	}
	t.mkdir(name)
	return i
}

func (t *rootDirTest) mkdir(names ...string) {
	t.Helper()
	if err := os.MkdirAll(t.path(names...), 0o755); err != nil {
		t.Fatal(err)
	}
}

// placed fails the test unless the node takes dir, or stays, and has its kubelet at want.
func (t *rootDirTest) placed(i instance.Instance, dir, want string) {
	t.Helper()
	if err := placeKubelet(i, dir); err != nil || kubeletDir(i) != want {
		t.Errorf("--root-dir %q: %v; the kubelet is at %s", dir, err, kubeletDir(i))
	}
}

// refused fails the test unless the node does not take dir, says why, and leaves all as it is.
func (t *rootDirTest) refused(i instance.Instance, dir, why string) {
	t.Helper()
	before := kubeletDir(i)
	if err := placeKubelet(i, dir); err == nil || !strings.Contains(err.Error(), why) || kubeletDir(i) != before {
		t.Errorf("--root-dir %q: %v; the kubelet is at %s", dir, err, kubeletDir(i))
	}
}

func TestRootDir(test *testing.T) {
	t := newRootDirTest(test)
	a, b := t.node("a"), t.node("b")
	t.placed(a, "", t.path("a", "kubelet"))
	t.placed(a, t.path("new", "kubelet"), t.path("new", "kubelet"))
	for _, same := range []string{"", t.path("new", "kubelet")} { // the next start
		t.placed(a, same, t.path("new", "kubelet"))
	}
	t.refused(b, t.path("new", "kubelet"), "node with data directory "+a.DataDir)
	t.refused(a, t.path("other"), "has its files in "+t.path("new", "kubelet"))
	t.refused(a, t.path("a", "kubelet"), "has its files in "+t.path("new", "kubelet"))

	t.mkdir("disk", "lost+found")
	t.placed(b, t.path("disk"), t.path("disk"))

	c := t.node("c")
	t.mkdir("k3s", "pods")
	t.refused(c, t.path("k3s"), "files of another kubelet")
	t.refused(c, t.path("c", "sub"), "neither in the data directory")
	t.refused(c, t.base, "neither in the data directory")
	if err := os.Symlink(t.path("real"), t.path("link")); err != nil {
		t.Fatal(err)
	}
	t.mkdir("real")
	t.refused(c, t.path("link"), "give that")

	d := t.node("d")
	t.mkdir("d", "kubelet", "pods")
	t.refused(d, t.path("later"), "has its files in "+t.path("d", "kubelet"))
}

// A node that is uninstalled takes its kubelet's directory along, and no other's.
func TestUninstallTakesRootDir(test *testing.T) {
	t := newRootDirTest(test)
	a, b := t.node("a"), t.node("b")
	t.placed(a, t.path("kubelet"), t.path("kubelet"))
	t.mkdir("kubelet", "pods")
	if err := os.RemoveAll(t.path("kubelet")); err != nil { // somebody clears up, and starts another
		t.Fatal(err)
	}
	t.placed(b, t.path("kubelet"), t.path("kubelet"))
	t.refused(a, "", "node with data directory "+b.DataDir)
	if err := leaveKubelet(a); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(t.path("kubelet")); err != nil {
		t.Errorf("another node's directory: %v", err)
	}
	if err := leaveKubelet(b); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(t.path("kubelet")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its own directory: %v", err)
	}
}
