package daemon

import (
	"context"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/kubelet/evict"
	"github.com/peapod/peapod/kubelet/imagegc"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/stats"
)

// newCare composes what measures the node and keeps it from running full. The kubelet is made later: it is asked through
// functions, and not before the node runs.
func (n *node) newCare(i instance.Instance, s settled, shown stats.Certificates) error {
	var err error
	pods := func() []*v1.Pod { return n.kubelet.Pods().Pods() }
	recorder := func() record.EventRecorder { return n.kubelet.Recorder() }
	n.stats, err = stats.New(stats.Config{
		NodeName: s.NodeName, Pods: func() pod.Lookup { return n.kubelet.Pods() }, Runtime: n.runtime, Images: n.runtimeImages,
		RootDir: kubeletDir(i), LogDir: logDir(i), ImageDir: filepath.Join(i.DataDir, "images"), Measure: n.volumes.Measure,
		Counted: n.metrics.Kubelet(), Volumes: n.volumes.Count, Certificates: shown,
	})
	if err != nil {
		return err
	}
	n.images, err = imagegc.New(imagegc.Config{
		NodeName: s.NodeName, Runtime: n.runtime, Images: n.runtimeImages, Pods: pods, Recorder: recorder, Room: n.imageRoom, Metrics: n.metrics,
		HighPercent: s.ImageGCHighThreshold, LowPercent: s.ImageGCLowThreshold,
	})
	if err != nil {
		return err
	}
	n.evict, err = evict.New(evict.Config{
		NodeName: s.NodeName, Observer: &evict.Machine{RootDir: i.DataDir, Images: n.stats.ImageFsPath}, Stats: n.stats,
		Pods: pods, Metrics: n.metrics, Thresholds: s.evict, MaxPodGrace: int64(s.EvictionMaxPodGracePeriod), Transition: s.EvictionPressureTransitionPeriod.Duration,
		Evict:    func(uid types.UID, why pod.Eviction) error { return n.kubelet.Evictor().Evict(uid, why) },
		Recorder: recorder, Changed: func() { n.kubelet.Node().Kick() },
		Reclaim: []func(context.Context) error{imagegc.DeadContainers(n.runtime, pods), n.images.RemoveUnused},
	})
	return err
}

// logDir is where containers' logs are.
func logDir(i instance.Instance) string { return filepath.Join(i.DataDir, "logs") }

// imageRoom is how much of the images' file system is free, and its size, in bytes.
func (n *node) imageRoom(ctx context.Context) (available, capacity int64, err error) {
	path, err := n.stats.ImageFsPath(ctx)
	if err != nil {
		return 0, 0, err
	}
	fs, err := stats.FileSystem(path, time.Now())
	if err != nil {
		return 0, 0, err
	}
	return int64(*fs.AvailableBytes), int64(*fs.CapacityBytes), nil
}

// settings is what the kubelet runs with, in the terms of its configuration file.
func (n *node) settings(s settled, port int32) any {
	yes, no, zero := true, false, int32(0)
	duration := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	full, left := n.images.Thresholds()
	high, low := int32(full), int32(left)
	hard := s.EvictionHard
	if hard == nil {
		hard = map[string]string{}
		for _, t := range evict.DefaultThresholds() {
			hard[string(t.Signal)] = t.String()
		}
	}
	c := kubeletconfig.KubeletConfiguration{
		Authentication: kubeletconfig.KubeletAuthentication{
			Webhook:   kubeletconfig.KubeletWebhookAuthentication{Enabled: &yes, CacheTTL: duration(2 * time.Minute)},
			Anonymous: kubeletconfig.KubeletAnonymousAuthentication{Enabled: &no},
		},
		Authorization: kubeletconfig.KubeletAuthorization{
			Mode:    kubeletconfig.KubeletAuthorizationModeWebhook,
			Webhook: kubeletconfig.KubeletWebhookAuthorization{CacheAuthorizedTTL: duration(5 * time.Minute), CacheUnauthorizedTTL: duration(30 * time.Second)},
		},
		Port: port, ReadOnlyPort: zero, ClusterDomain: clusterDomain, MaxPods: s.MaxPods,
		NodeStatusUpdateFrequency: duration(10 * time.Second), NodeStatusReportFrequency: duration(5 * time.Minute), NodeLeaseDurationSeconds: 40,
		ImageMinimumGCAge: duration(2 * time.Minute), ImageGCHighThresholdPercent: &high, ImageGCLowThresholdPercent: &low,
		EvictionHard: hard, EvictionSoft: s.EvictionSoft, EvictionSoftGracePeriod: s.EvictionSoftGracePeriod,
		EvictionMaxPodGracePeriod: s.EvictionMaxPodGracePeriod, EvictionMinimumReclaim: s.EvictionMinimumReclaim,
		EvictionPressureTransitionPeriod: s.EvictionPressureTransitionPeriod,
		CgroupDriver:                     "cgroupfs", CgroupsPerQOS: &yes, SerializeImagePulls: &no, SeccompDefault: &s.SeccompDefault,
		ContainerLogMaxSize: s.ContainerLogMaxSize, ContainerLogMaxFiles: &s.ContainerLogMaxFiles,
		SystemReserved: s.SystemReserved, RegisterWithTaints: s.taints,
		AllowedUnsafeSysctls: s.AllowedUnsafeSysctls, StaticPodPath: s.PodManifestPath,
	}
	if s.MaxParallelImagePulls > 0 {
		c.MaxParallelImagePulls = &s.MaxParallelImagePulls
	}
	if s.ResolvConf != "" {
		c.ResolverConfig = &s.ResolvConf
	}
	c.Kind, c.APIVersion = "KubeletConfiguration", kubeletconfig.SchemeGroupVersion.String()
	return c
}
