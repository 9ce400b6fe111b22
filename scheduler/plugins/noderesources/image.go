package noderesources

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// ImageLocality prefers nodes that have the Pod's images already.
type ImageLocality struct{}

var _ framework.Score = ImageLocality{}

// Name implements framework.Plugin.
func (ImageLocality) Name() string { return "ImageLocality" }

// Images below minImage bytes are quick to pull; above maxImage a container they count no more.
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// PrepareScore implements framework.Score.
func (ImageLocality) PrepareScore(pod *framework.Pod, cluster *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
	if len(cluster.Nodes) < 2 {
		return nil
	}
	var names []string
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			names = append(names, normal(list[i].Image))
		}
	}
	// An image that few nodes have attracts less, lest they take all Pods.
	share, known := make([]float64, len(names)), false
	for i, name := range names {
		with := cluster.Index.WithImage(name)
		share[i] = float64(with) / float64(len(cluster.Nodes))
		known = known || with > 0
	}
	if !known {
		return nil // all nodes would get the lowest score
	}
	upper := int64(maxImage * len(names))
	return func(n *framework.Node) int64 {
		var sum int64
		for i, name := range names {
			sum += int64(float64(n.Images[name]) * share[i])
		}
		sum = min(max(sum, minImage), upper)
		return (sum - minImage) * framework.MaxScore / (upper - minImage)
	}
}

// normal gives an image without a tag the tag latest, as node status lists it.
func normal(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}

// Weight implements framework.Score.
func (ImageLocality) Weight() int64 { return 1 }
