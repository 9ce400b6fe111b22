package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/kubelet/plugin"
)

func makeDirectory(path string) error {
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make directory of volume: %w", err)
	}
	return nil
}

// TearDown has the drivers take from the Pod what they have published to it, or may have. After an error it is called again. Volumes
// that no Pod uses then leave the node in the background.
func (p *Plugin) TearDown(ctx context.Context, uid types.UID) error {
	if err := p.load(); err != nil {
		return err
	}
	var errs []error
	for _, m := range p.of(uid) {
		errs = append(errs, p.unpublish(ctx, m))
	}
	return errors.Join(errs...)
}

// of are the mounts of a Pod. Their work is told to end.
func (p *Plugin) of(uid types.UID) []*mounting {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*mounting
	for key, m := range p.mounts {
		if key.uid == uid {
			m.cancel()
			m.stopRepublishing()
			out = append(out, m)
		}
	}
	return out
}

func (p *Plugin) unpublish(ctx context.Context, m *mounting) error {
	select {
	case <-m.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := m.turn.Take(ctx); err != nil {
		return err
	}
	defer m.turn.Give()
	if r := m.record; r != nil {
		if err := p.askUnpublish(ctx, m, r); err != nil {
			return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", m.key.name, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m.record = nil
	if p.mounts[m.key] == m {
		delete(p.mounts, m.key)
	}
	if s := p.volumes[m.unique]; s != nil {
		delete(s.users, m.key)
		p.letGo(m.unique, s)
	}
	return nil
}

func (p *Plugin) askUnpublish(ctx context.Context, m *mounting, r *record) error {
	d, _, err := p.driver(r.Driver)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	at := p.published(m.key, m.block)
	if _, err := d.client.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: at.path}); err != nil {
		return err
	}
	return at.clear()
}

// Abandon tears down a Pod that nobody asks for any more, in the background, and then calls finish; ctx ends with Close.
func (p *Plugin) Abandon(uid types.UID, finish func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawn(func() {
		plugin.Again(p.ctx, "Volumes of a pod that is gone are still mounted, will retry", func() (<-chan struct{}, error) {
			p.mu.Lock()
			news := p.driverNews
			p.mu.Unlock()
			err := p.TearDown(p.ctx, uid)
			if err == nil {
				err = finish(p.ctx)
			}
			return news, err
		}, "podUID", uid)
	})
}

// Has says whether a driver has, or may have, published something to the Pod.
func (p *Plugin) Has(uid types.UID) bool {
	if p.load() != nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.mounts {
		if key.uid == uid {
			return true
		}
	}
	return false
}

// Forget takes what drivers had published to Pods off a node whose Pods are gone, and their drivers with them. What they have staged
// stays for the next start to unstage. root is the kubelet's directory.
func Forget(root string) error {
	dir := filepath.Join(root, "plugins", csiname.Plugin, devices, "publish")
	volumes, err := names(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, volume := range volumes {
		pods, err := names(filepath.Join(dir, volume))
		errs = append(errs, err)
		for _, uid := range pods {
			path := filepath.Join(dir, volume, uid)
			if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
				errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove %s: %w", path, err))
			}
		}
	}
	return errors.Join(errs...)
}
