// Package logrotate keeps the logs of containers small: a log that reached its
// size is renamed, the runtime opens a new one, older ones are compressed and
// the oldest removed.
package logrotate

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// Config is what a Rotator needs.
type Config struct {
	Runtime  internalapi.RuntimeService
	MaxSize  int64 // bytes
	MaxFiles int   // the current one included; at least 2
	Every    time.Duration
}

// Rotator rotates logs.
type Rotator struct {
	cfg   Config
	paths map[string]string // log path by container ID: it never changes
}

// New makes a Rotator.
func New(cfg Config) *Rotator {
	cfg.MaxFiles = max(cfg.MaxFiles, 2)
	return &Rotator{cfg: cfg, paths: map[string]string{}}
}

// Run looks at the sizes of the logs of running containers now and then: one
// list of the runtime and one stat a container, because a file's size sends no
// event that would be cheaper.
func (r *Rotator) Run(ctx context.Context) {
	t := time.NewTicker(r.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := r.Rotate(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Rotating container logs failed")
		}
	}
}

// Rotate rotates every log that reached its size.
func (r *Rotator) Rotate(ctx context.Context) error {
	running := runtimeapi.ContainerState_CONTAINER_RUNNING
	list, err := r.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: running}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	known := make(map[string]string, len(list))
	for _, c := range list {
		path, ok := r.paths[c.Id]
		if !ok {
			resp, err := r.cfg.Runtime.ContainerStatus(ctx, c.Id, false)
			if err != nil {
				continue // gone meanwhile
			}
			path = resp.Status.LogPath
		}
		known[c.Id] = path
		if path == "" {
			continue
		}
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			// A crash between rename and reopen left it without a file.
			errs = append(errs, r.cfg.Runtime.ReopenContainerLog(ctx, c.Id))
			continue
		}
		if err != nil || !info.Mode().IsRegular() || info.Size() < r.cfg.MaxSize {
			continue
		}
		errs = append(errs, r.rotate(ctx, c.Id, path))
	}
	r.paths = known
	return errors.Join(errs...)
}

// stampFormat sorts as text as it does as time.
const stampFormat = "20060102-150405"

// rotate renames the log, has the runtime open a new one, and tidies up what
// is older. The newest renamed one stays plain: a reader that follows may
// still have its end to read.
func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return fmt.Errorf("list rotated logs: %w", err)
	}
	sort.Strings(old)
	kept := old[:0]
	for _, p := range old {
		if strings.HasSuffix(p, ".tmp") { // a compression that was cut off
			if err := os.Remove(p); err != nil {
				return fmt.Errorf("remove cut-off log: %w", err)
			}
			continue
		}
		kept = append(kept, p)
	}
	for len(kept) > r.cfg.MaxFiles-2 {
		if err := os.Remove(kept[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove oldest log: %w", err)
		}
		kept = kept[1:]
	}
	for _, p := range kept {
		if !strings.HasSuffix(p, ".gz") {
			if err := compress(p); err != nil {
				return fmt.Errorf("compress log %s: %w", p, err)
			}
		}
	}
	renamed := path + "." + time.Now().Format(stampFormat)
	if _, err := os.Lstat(renamed); err == nil {
		return nil // a second within one second: the next look does it
	}
	if err := os.Rename(path, renamed); err != nil {
		return fmt.Errorf("rename log: %w", err)
	}
	if err := r.cfg.Runtime.ReopenContainerLog(ctx, id); err != nil {
		// Back, so that the container goes on writing where readers look.
		return errors.Join(fmt.Errorf("reopen log of container %s: %w", id, err), os.Rename(renamed, path))
	}
	return nil
}

// compress replaces a file by its gzip, through a temporary file, so that a
// crash loses nothing.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
