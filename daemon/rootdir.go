package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/removetree"
)

// kubeletDir is the kubelet's root directory: Pods' directories, and the sockets of plugins. It is <data-dir>/kubelet, or what that link
// leads to.
func kubeletDir(i instance.Instance) string {
	if to, err := os.Readlink(kubeletLink(i)); err == nil {
		return to
	}
	return kubeletLink(i)
}

func kubeletLink(i instance.Instance) string { return filepath.Join(i.DataDir, "kubelet") }

// rootMark is a link in a root directory outside of the data directory, to the data directory of the node that has it.
const rootMark = ".peapod"

// placeKubelet makes dir the kubelet's root directory for as long as the data directory lives; empty leaves what is. No two nodes have
// the same one: it must be empty, or this node's from before.
func placeKubelet(i instance.Instance, dir string) error {
	now := kubeletDir(i)
	if dir == "" {
		dir = now
	}
	if dir == kubeletLink(i) && now == dir {
		return nil
	}
	if err := claimRoot(i, dir, now); err != nil {
		return fmt.Errorf("--root-dir %q: %w", dir, err)
	}
	if dir == now {
		return nil
	}
	if err := os.Remove(kubeletLink(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make way for the kubelet's root directory: %w", err)
	}
	return os.Symlink(dir, kubeletLink(i))
}

// claimRoot marks dir as this node's, whose root directory is now another, or already this one.
func claimRoot(i instance.Instance, dir, now string) error {
	if dir != now {
		if old, err := os.ReadDir(now); err == nil && len(old) > 0 {
			return fmt.Errorf("this node has its files in %s: leave the flag out, or `peapod uninstall` the node first", now)
		}
		if within(i.DataDir, dir) || within(dir, i.DataDir) {
			return fmt.Errorf("must be neither in the data directory %s nor above it", i.DataDir)
		}
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(dir); err != nil || real != dir {
		return errors.Join(fmt.Errorf("is %s by a link, and Pods' mounts are known by their real paths: give that", real), err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, rootMark)
	switch of, err := os.Readlink(mark); {
	case err == nil && of != i.DataDir:
		return fmt.Errorf("is that of the node with data directory %s: choose another", of)
	case err == nil:
		return nil
	case dir != now && slices.ContainsFunc(there, func(e os.DirEntry) bool { return e.Name() != "lost+found" }):
		return errors.New("has files of another kubelet, or of somebody else: choose an empty directory, or empty it when the other is gone")
	}
	// It is there at once or not at all, and of one.
	return os.Symlink(i.DataDir, mark)
}

// leaveKubelet removes the kubelet's root directory, unless another node has come to have it.
func leaveKubelet(i instance.Instance) error {
	dir := kubeletDir(i)
	if of, err := os.Readlink(filepath.Join(dir, rootMark)); err == nil && of != i.DataDir {
		return nil
	}
	return removetree.RemoveButDisks(dir)
}

// within says whether path is dir or lies in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
