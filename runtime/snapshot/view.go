package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/removetree"
)

// ensureView makes the read-only snapshot that holds the layers of chainID for its containers. The first container of an
// image pays for it, and it stays until a garbage collection finds it unused. The caller holds mu.
func (s *Snapshots) ensureView(ctx context.Context, chainID string) error {
	if chainID == "" {
		return nil
	}
	labels := map[string]string{gcRootLabel: time.Now().UTC().Format(time.RFC3339)}
	if _, err := s.cfg.Layers.Stat(s.scope(ctx), viewPrefix+chainID); err == nil {
		return nil
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for view of layers %s: %w", chainID, err)
	}
	if _, err := s.cfg.Layers.View(s.scope(ctx), viewPrefix+chainID, chainID, snapshots.WithLabels(labels)); err != nil {
		return fmt.Errorf("make view of layers %s: %w", chainID, err)
	}
	return nil
}

// lower returns the directories of the layers, the topmost first, and the mounts of their view. The caller holds mu.
func (s *Snapshots) lower(ctx context.Context, chainID string) (dirs []string, view []Mount, err error) {
	if chainID == "" {
		return nil, nil, nil
	}
	view, err = s.cfg.Layers.Mounts(s.scope(ctx), viewPrefix+chainID)
	if err != nil {
		return nil, nil, fmt.Errorf("read view of layers %s: %w", chainID, err)
	}
	if len(view) != 1 {
		return nil, nil, fmt.Errorf("view of layers %s has %d mounts, not one", chainID, len(view))
	}
	if view[0].Type == "bind" {
		return []string{view[0].Source}, view, nil
	}
	for _, option := range view[0].Options {
		if list, ok := strings.CutPrefix(option, "lowerdir="); ok {
			return strings.Split(list, ":"), view, nil
		}
	}
	return nil, nil, fmt.Errorf("view of layers %s has no directories", chainID)
}

// CollectGarbage removes what removed containers wrote, and the views that no container uses, so that the collector of
// Layers can remove layers that nothing names.
func (s *Snapshots) CollectGarbage(ctx context.Context) error {
	err := s.dropViews(ctx)
	entries, readErr := os.ReadDir(s.trashDir())
	if readErr != nil {
		return errors.Join(err, fmt.Errorf("list removed snapshots: %w", readErr))
	}
	for _, e := range entries {
		if rmErr := removetree.Remove(filepath.Join(s.trashDir(), e.Name())); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("remove snapshot for good: %w", rmErr))
		}
	}
	return err
}

func (s *Snapshots) dropViews(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var idle []string
	err := s.cfg.Layers.Walk(s.scope(ctx), func(_ context.Context, info snapshots.Info) error {
		if chain, ours := strings.CutPrefix(info.Name, viewPrefix); ours && len(s.users[chain]) == 0 {
			idle = append(idle, chain)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list views of layers: %w", err)
	}
	for _, chain := range idle {
		if err := s.cfg.Layers.Remove(s.scope(ctx), viewPrefix+chain); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove view of layers %s: %w", chain, err)
		}
		delete(s.users, chain)
	}
	return nil
}

// MountAt mounts a snapshot on the directory target, which must exist. Long chains of layers are handled (the kernel takes
// one page of mount options). Mounting on a target that is a mount point already stacks: the caller keeps track.
func MountAt(mounts []Mount, target string) error {
	if err := mount.All(mounts, target); err != nil {
		return fmt.Errorf("mount snapshot on %s: %w", target, err)
	}
	return nil
}

// UnmountAt undoes MountAt, all mounts stacked on target included; a target that is no mount point, or is absent, is no
// error. A busy file system is detached: it goes when its last user ends.
func UnmountAt(target string) error {
	if err := mount.UnmountAll(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount snapshot from %s: %w", target, err)
	}
	return nil
}
