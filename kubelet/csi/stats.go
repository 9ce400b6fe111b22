package csi

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	// statsAge is how long what a driver has measured is told, as in Kubernetes' kubelet.
	statsAge = time.Minute
	// statsPatience is how long who asks for the first time waits for the driver.
	statsPatience = time.Second
)

// measured is what a driver has said of how full a volume is.
type measured struct {
	at     time.Time         // when it was asked
	answer *statsapi.FsStats // the last one, which is not changed; nil for none
	done   chan struct{}     // closed when the driver has answered
}

// Stats returns how full a volume of a Pod is, as its driver has measured it a minute ago at most; nil where that is not known, or the
// driver does not measure. name is that of the persistent volume, or the Pod's own for an inline one. A driver that does not answer keeps
// nobody waiting: it is asked at the side, by one call at a time, and what it said before is told meanwhile.
func (p *Plugin) Stats(ctx context.Context, uid types.UID, name string) *statsapi.FsStats {
	p.mu.Lock()
	m := p.mounts[mountKey{uid, name}]
	if m == nil || !m.ended() || m.err != nil || m.block || m.record == nil {
		p.mu.Unlock()
		return nil
	}
	s := &m.measured
	now := p.cfg.Clock.Now()
	first := s.at.IsZero()
	if idle := first || ended(s.done); idle && (first || now.Sub(s.at) >= statsAge) && p.ctx.Err() == nil {
		s.at, s.done = now, make(chan struct{})
		request := csi.NodeGetVolumeStatsRequest{VolumeId: m.record.Handle, VolumePath: p.published(m.key, m.block).path}
		driver := m.record.Driver
		p.spawn(func() { p.measure(m, driver, &request) })
	}
	done, answer := s.done, s.answer
	p.mu.Unlock()
	if !first || done == nil {
		return answer
	}
	patience := time.NewTimer(statsPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.answer
}

func ended(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// measure asks a driver, and notes what it says.
func (p *Plugin) measure(m *mounting, driver string, r *csi.NodeGetVolumeStatsRequest) {
	ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
	defer cancel()
	answer, err := p.askStats(ctx, driver, r)
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "A volume is not measured", "podUID", m.key.uid, "volume", m.key.name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m.measured.answer = answer
	close(m.measured.done)
}

func (p *Plugin) askStats(ctx context.Context, driver string, r *csi.NodeGetVolumeStatsRequest) (*statsapi.FsStats, error) {
	d, _, err := p.driver(driver)
	if err != nil {
		return nil, err
	}
	if can, err := d.can(ctx, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS); err != nil || !can {
		return nil, err
	}
	resp, err := d.client.NodeGetVolumeStats(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("ask CSI driver %s how full volume %s is: %w", driver, r.VolumeId, err)
	}
	out := &statsapi.FsStats{Time: metav1.NewTime(p.cfg.Clock.Now())}
	for _, usage := range resp.GetUsage() {
		available, total, used := amount(usage.GetAvailable()), amount(usage.GetTotal()), amount(usage.GetUsed())
		switch usage.GetUnit() {
		case csi.VolumeUsage_BYTES:
			out.AvailableBytes, out.CapacityBytes, out.UsedBytes = available, total, used
		case csi.VolumeUsage_INODES:
			out.InodesFree, out.Inodes, out.InodesUsed = available, total, used
		default:
			return nil, fmt.Errorf("CSI driver %s says how full volume %s is in unit %s, which is not known", driver, r.VolumeId, usage.GetUnit())
		}
	}
	return out, nil
}

// amount is what a driver says of a size; nonsense is none.
func amount(n int64) *uint64 {
	v := uint64(max(n, 0))
	return &v
}
