package csi

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/peapod/peapod/kubelet/pod"
)

// ErrExpansionNotSupported says that the driver has nothing to do on the node when a volume grows.
var ErrExpansionNotSupported = errors.New("the driver does not expand volumes on nodes")

// expansion is a volume that is being made larger for a Pod that has it.
type expansion struct {
	bytes int64
	done  chan struct{}
	err   error // once done is closed
}

// Expand has the driver make a published volume as large as said. As SetUp does it returns a quiet *pod.RetryError while the driver is at
// work, and what came of it once; changed is called when that is known.
func (p *Plugin) Expand(v Volume, bytes int64, changed func()) error {
	key := mountKey{v.Pod.UID, v.name()}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.mounts[key]
	if m == nil || !m.ended() || m.err != nil {
		return errors.New("the volume is not mounted")
	}
	if e := m.expansion; e != nil {
		select {
		case <-e.done:
			m.expansion = nil
			if e.bytes == bytes {
				return e.err
			}
		default:
			return &pod.RetryError{Err: errUnderWay, Ready: e.done, Quiet: true}
		}
	}
	if p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	e := &expansion{bytes: bytes, done: make(chan struct{})}
	m.expansion = e
	p.spawn(func() {
		err := p.expand(p.ctx, &v, m, bytes)
		p.mu.Lock()
		e.err = err
		close(e.done)
		p.mu.Unlock()
		changed()
	})
	return &pod.RetryError{Err: errUnderWay, Ready: e.done, Quiet: true}
}

func (p *Plugin) expand(ctx context.Context, v *Volume, m *mounting, bytes int64) error {
	if err := m.turn.Take(ctx); err != nil {
		return err
	}
	defer m.turn.Give()
	if m.record == nil {
		return errors.New("the volume is not mounted any more")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, _, err := p.driver(v.driver())
	if err != nil {
		return err
	}
	if can, err := d.can(ctx, csi.NodeServiceCapability_RPC_EXPAND_VOLUME); err != nil || !can {
		if err == nil {
			err = ErrExpansionNotSupported
		}
		return err
	}
	staging, err := p.stagingPath(ctx, d, v)
	if err != nil {
		return err
	}
	secrets, err := p.secrets(ctx, v.Persistent.Spec.CSI.NodeExpandSecretRef)
	if err != nil {
		return err
	}
	capability, err := d.capability(ctx, v, "")
	if err != nil {
		return err
	}
	_, err = d.client.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.handle(), VolumePath: p.published(m.key, m.block).path, StagingTargetPath: staging,
		CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapability: capability, Secrets: secrets,
	})
	return err
}
