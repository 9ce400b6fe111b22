// Package localpath is what the two halves of the built-in provisioner of local volumes have agreed upon. The controller
// makes and deletes PersistentVolumes; the node that a volume is on makes and removes its directory, and nothing else.
//
//	claim (selected-node)  -> controller: a volume of source local, with affinity to that node
//	first Pod with it      -> node: makes the directory, notes Made
//	claim asks for more    -> controller: the volume's capacity and the claim's follow; directories have no size
//	claim is gone          -> controller: deletes the volume, which Finalizer holds
//	volume is being deleted-> node: removes the directory, then Finalizer; the controller does where the node is no more
package localpath

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

const (
	// Provisioner names itself in storage classes and in the annotation pv.kubernetes.io/provisioned-by.
	Provisioner = "peapod.io/local-path"
	// ClassName is the class that a new cluster has.
	ClassName = "local-path"
	// NodeLabel is, on a volume, the name of its node: by it a node finds its own, and may read no others.
	NodeLabel = "peapod.io/node"
	// DirectoryAnnotation is, on a Node, the directory below which its volumes are.
	DirectoryAnnotation = "peapod.io/local-path-directory"
	// MadeAnnotation is, on a volume, that its node has made its directory. Should that be missing later, it is lost, and
	// no empty one takes its place.
	MadeAnnotation = "peapod.io/local-path-made"
	// Finalizer keeps a volume to be deleted until its directory is removed; the one that all external provisioners use.
	Finalizer = storage.PVDeletionProtectionFinalizer
)

// Made says whether the provisioner has made the volume.
func Made(v *corev1.PersistentVolume) bool {
	return v.Annotations[storage.AnnDynamicallyProvisioned] == Provisioner
}

// Node is the node that the provisioner has put the volume on; empty for volumes that it has not made.
func Node(v *corev1.PersistentVolume) string {
	if !Made(v) {
		return ""
	}
	return v.Labels[NodeLabel]
}

// Ours says whether the provisioner has put the volume on the node.
func Ours(v *corev1.PersistentVolume, node string) bool { return node != "" && Node(v) == node }

// Doomed says whether the volume's directory is to be removed: the volume is being deleted, its policy is that its data go
// with it, and no claim has it.
func Doomed(v *corev1.PersistentVolume) bool {
	return v.DeletionTimestamp != nil && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete &&
		v.Status.Phase != corev1.VolumeBound
}

// Path is where a node whose volumes are below dir has the volume of that name.
func Path(dir, volume string) string { return filepath.Join(dir, volume) }
