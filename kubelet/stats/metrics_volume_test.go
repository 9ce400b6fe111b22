package stats

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// What drivers say of volumes is in the summary, and in the metrics under the claim's name, once.
func TestVolumesOfDrivers(t *testing.T) {
	s := newStage(t)
	s.cfg.Measure = func(_ context.Context, uid types.UID, volume string) *statsapi.FsStats {
		if uid != "u1" || volume == "unknown" {
			return nil
		}
		return &statsapi.FsStats{CapacityBytes: ptr(uint64(1000)), AvailableBytes: ptr(uint64(400)), UsedBytes: ptr(uint64(600)), InodesFree: ptr(uint64(7))}
	}
	claim := func(name string) v1.VolumeSource {
		return v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	}
	s.pod.Spec.Volumes = append(s.pod.Spec.Volumes,
		v1.Volume{Name: "data", VolumeSource: claim("data-0")}, v1.Volume{Name: "again", VolumeSource: claim("data-0")},
		v1.Volume{Name: "unknown", VolumeSource: claim("other")},
		v1.Volume{Name: "inline", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: "d"}}})
	sum, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range sum.Pods[0].VolumeStats {
		names = append(names, v.Name)
	}
	if got := strings.Join(names, " "); got != "scratch data again inline" {
		t.Errorf("volumes %s", got)
	}
	w := httptest.NewRecorder()
	s.KubeletMetrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body := w.Body.String()
	for _, want := range []string{
		"\nkubelet_volume_stats_capacity_bytes{namespace=\"ns\",persistentvolumeclaim=\"data-0\"} 1000\n",
		"\nkubelet_volume_stats_available_bytes{namespace=\"ns\",persistentvolumeclaim=\"data-0\"} 400\n",
		"\nkubelet_volume_stats_used_bytes{namespace=\"ns\",persistentvolumeclaim=\"data-0\"} 600\n",
		"\nkubelet_volume_stats_inodes_free{namespace=\"ns\",persistentvolumeclaim=\"data-0\"} 7\n",
		"\ngo_goroutines ",
	} {
		if n := strings.Count(body, want); n != 1 {
			t.Errorf("%d times in the metrics: %q", n, want)
		}
	}
	if strings.Contains(body, "kubelet_volume_stats_inodes{") || strings.Contains(body, `"other"`) {
		t.Error("metrics tell what nobody knows")
	}
}
