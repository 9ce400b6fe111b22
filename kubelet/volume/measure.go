package volume

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Measure returns how full a volume of a Pod is that a CSI driver has, by the name that the Pod gives it; nil for others, and where it is
// not known. It may keep who asks for the first time waiting for a second, and nobody later.
func (m *Manager) Measure(ctx context.Context, uid types.UID, name string) *statsapi.FsStats {
	m.mu.Lock()
	pv := m.pods[uid]
	m.mu.Unlock()
	if pv == nil || m.cfg.CSI == nil {
		return nil
	}
	if c, ok := pv.claimOf(name); ok && c.volume != "" {
		name = c.volume
	}
	return m.cfg.CSI.Stats(ctx, uid, name)
}
