package csi

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/internal/turn"
	"github.com/peapod/peapod/kubelet/plugin"
)

// shared is a persistent volume on the node, which several Pods may use. The Plugin's mu guards it, but for what says otherwise.
type shared struct {
	// attach says that the volume must be attached, and so that the node has it in use.
	attach bool
	users  map[mountKey]bool
	// turn has a token while the driver is asked for something about it.
	turn turn.Turn
	// staged is nil unless the driver was asked to stage it; who has the turn may touch it.
	staged *record
	block  bool
	// leaving says that a goroutine brings it off the node.
	leaving bool
}

// sharedOf returns a volume's entry, which is made if need be. The caller holds mu.
func (p *Plugin) sharedOf(driver, handle string) *shared {
	name := csiname.Volume(driver, handle)
	s := p.volumes[name]
	if s == nil {
		s = &shared{users: map[mountKey]bool{}, turn: turn.New()}
		p.volumes[name] = s
	}
	return s
}

// use notes that a Pod has the volume, until letGo. The caller holds mu.
func (p *Plugin) use(m *mounting, driver, handle string, attach bool) *shared {
	s := p.sharedOf(driver, handle)
	s.users[m.key] = true
	m.unique = csiname.Volume(driver, handle)
	if attach && !s.attach {
		s.attach = true
		p.spawn(p.cfg.Kick)
	}
	return s
}

// letGo brings a volume off the node that no Pod uses. The caller holds mu.
func (p *Plugin) letGo(name v1.UniqueVolumeName, s *shared) {
	if len(s.users) == 0 && !s.leaving {
		s.leaving = true
		p.spawn(func() { p.leaveNode(name, s) })
	}
}

// leaveNode unstages a volume, again and again until that succeeds or a Pod uses it after all, and then tells that the node does not
// use it.
func (p *Plugin) leaveNode(name v1.UniqueVolumeName, s *shared) {
	plugin.Again(p.ctx, "UnmountDevice failed, will retry", func() (<-chan struct{}, error) {
		news, err := p.unstage(p.ctx, s)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(s.users) == 0 && err != nil {
			return news, err
		}
		s.leaving = false
		if len(s.users) == 0 {
			delete(p.volumes, name)
			p.spawn(p.cfg.Kick)
		}
		return nil, nil
	}, "volume", name)
}

// unstage asks the driver to bring a volume off the node, unless a Pod uses it again. What is closed at news may change an error.
func (p *Plugin) unstage(ctx context.Context, s *shared) (news <-chan struct{}, err error) {
	if err := s.turn.Take(ctx); err != nil {
		return nil, err
	}
	defer s.turn.Give()
	p.mu.Lock()
	used := len(s.users) > 0
	p.mu.Unlock()
	if used || s.staged == nil {
		return nil, nil
	}
	d, news, err := p.driver(s.staged.Driver)
	if err != nil {
		return news, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	at := p.staged(s.staged, s.block)
	if _, err := d.client.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: s.staged.Handle, StagingTargetPath: at.path}); err != nil {
		return nil, err
	}
	if err := at.clear(); err != nil {
		return nil, err
	}
	s.staged = nil
	return nil, nil
}

// stagingPath is where the driver has the volume on the node; empty for one that does not stage.
func (p *Plugin) stagingPath(ctx context.Context, d *driver, v *Volume) (string, error) {
	stages, err := d.can(ctx, csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME)
	if !stages || err != nil {
		return "", err
	}
	return p.staged(&record{SpecName: v.name(), Driver: d.name, Handle: v.handle()}, v.block()).path, nil
}

// stage asks the driver to bring a volume to the node, unless it is there, and returns where that is. The caller has the volume's
// turn.
func (p *Plugin) stage(ctx context.Context, d *driver, v *Volume, s *shared, publishContext map[string]string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	path, err := p.stagingPath(ctx, d, v)
	if path == "" || err != nil || s.staged != nil && s.staged.Boot == p.boot {
		return path, err
	}
	secrets, err := p.secrets(ctx, v.Persistent.Spec.CSI.NodeStageSecretRef)
	if err != nil {
		return "", fmt.Errorf("fetching NodeStageSecretRef failed: %w", err)
	}
	group := group(v)
	if takes, err := d.can(ctx, csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP); err != nil || !takes {
		if err != nil {
			return "", err
		}
		group = ""
	}
	capability, err := d.capability(ctx, v, group)
	if err != nil {
		return "", err
	}
	fresh := s.staged == nil
	r := &record{SpecName: v.name(), Handle: v.handle(), Driver: d.name, Attach: flag(s.attach)}
	at := p.staged(r, v.block())
	s.staged, s.block = r, v.block()
	if err := at.save(r); err != nil {
		return "", err
	}
	if err := makeDirectory(at.path); err != nil {
		return "", err
	}
	if _, err := d.client.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: r.Handle, PublishContext: publishContext, StagingTargetPath: at.path, VolumeCapability: capability,
		Secrets: secrets, VolumeContext: v.Persistent.Spec.CSI.VolumeAttributes,
	}); err != nil {
		if fresh && final(err) {
			if at.clear() == nil {
				s.staged = nil
			}
		}
		return "", err
	}
	r.Boot = p.boot
	return at.path, at.save(r)
}
