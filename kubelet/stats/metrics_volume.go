package stats

import (
	"context"
	"net/http"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// KubeletMetrics serves /metrics: those of this process, of Pods, of the volumes that claims stand for, and what the kubelet counts as it
// happens. The registry of the process is the API server's too, where nobody asks for these: so they have their own, and the texts
// follow each other.
func (p *Provider) KubeletMetrics() http.Handler {
	parts := []http.Handler{legacyregistry.Handler(), metricsHandler(newVolumeCollector(p), newPodCollector(p))}
	if p.cfg.Counted != nil {
		parts = append(parts, p.cfg.Counted)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("Accept") // plain text is what can be continued
		r.Header.Set("Accept-Encoding", "identity")
		for _, part := range parts {
			part.ServeHTTP(w, r)
		}
	})
}

// volumeCollector makes metrics of volumes from Summary.
type volumeCollector struct {
	metrics.BaseStableCollector
	p *Provider

	capacity, available, used, inodes, inodesFree, inodesUsed family
}

func newVolumeCollector(p *Provider) *volumeCollector {
	volume := func(name, help string) family {
		return gauge("kubelet_volume_stats_"+name, help, metrics.ALPHA, "namespace", "persistentvolumeclaim")
	}
	return &volumeCollector{
		p:          p,
		capacity:   volume("capacity_bytes", "Capacity in bytes of the volume"),
		available:  volume("available_bytes", "Number of available bytes in the volume"),
		used:       volume("used_bytes", "Number of used bytes in the volume"),
		inodes:     volume("inodes", "Maximum number of inodes in the volume"),
		inodesFree: volume("inodes_free", "Number of free inodes in the volume"),
		inodesUsed: volume("inodes_used", "Number of used inodes in the volume"),
	}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *volumeCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, f := range []family{c.capacity, c.available, c.used, c.inodes, c.inodesFree, c.inodesUsed} {
		ch <- f.desc
	}
}

// CollectWithStability implements metrics.StableCollector. Where Pods share a claim it is told once.
func (c *volumeCollector) CollectWithStability(ch chan<- metrics.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	s, err := c.p.Summary(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Measuring for metrics of volumes failed")
		return
	}
	out, told := sink(ch), map[statsapi.PVCReference]bool{}
	for i := range s.Pods {
		for _, v := range s.Pods[i].VolumeStats {
			if v.PVCRef == nil || told[*v.PVCRef] {
				continue
			}
			told[*v.PVCRef] = true
			for _, one := range []struct {
				family
				value *uint64
			}{
				{c.capacity, v.CapacityBytes}, {c.available, v.AvailableBytes}, {c.used, v.UsedBytes},
				{c.inodes, v.Inodes}, {c.inodesFree, v.InodesFree}, {c.inodesUsed, v.InodesUsed},
			} {
				out.bytes(one.family, time.Time{}, one.value, v.PVCRef.Namespace, v.PVCRef.Name)
			}
		}
	}
}
