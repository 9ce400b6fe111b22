package volumerestrictions

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// disks says whether any volume of the Pod is of a kind that cannot be used twice on a node.
func disks(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
	})
}

// diskTaken says whether a Pod on the node uses the same disk as pod in a way that excludes it.
func diskTaken(pod *framework.Pod, n *framework.Node) bool {
	for _, other := range n.Pods {
		for i := range pod.Spec.Volumes {
			for j := range other.Spec.Volumes {
				if conflict(&pod.Spec.Volumes[i].VolumeSource, &other.Spec.Volumes[j].VolumeSource) {
					return true
				}
			}
		}
	}
	return false
}

// conflict says whether two volumes are the same disk and cannot both be used: those of AWS never, the others unless both are
// read only.
func conflict(a, b *corev1.VolumeSource) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		return a.GCEPersistentDisk.PDName == b.GCEPersistentDisk.PDName && !(a.GCEPersistentDisk.ReadOnly && b.GCEPersistentDisk.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		return slices.ContainsFunc(a.RBD.CephMonitors, func(m string) bool { return slices.Contains(b.RBD.CephMonitors, m) }) &&
			a.RBD.RBDPool == b.RBD.RBDPool && a.RBD.RBDImage == b.RBD.RBDImage && !(a.RBD.ReadOnly && b.RBD.ReadOnly)
	}
	return false
}
