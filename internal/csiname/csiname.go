// Package csiname has the names by which who attaches volumes of CSI drivers and who mounts them know the same volume. They are
// Kubernetes': drivers' own controllers rely on them.
package csiname

import (
	"crypto/sha256"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Plugin is that of the part of Kubernetes that has these volumes.
const Plugin = "kubernetes.io/csi"

// Volume is how status.volumesInUse and status.volumesAttached of Nodes name a volume.
func Volume(driver, handle string) v1.UniqueVolumeName {
	return v1.UniqueVolumeName(Plugin + "/" + driver + "^" + handle)
}

// Parse is the reverse of Volume; ok is false for volumes of other kinds.
func Parse(name v1.UniqueVolumeName) (driver, handle string, ok bool) {
	rest, ok := strings.CutPrefix(string(name), Plugin+"/")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "^")
}

// Attachment is the name of the VolumeAttachment for a volume and a node.
func Attachment(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// Inline is the handle of a volume that a Pod describes itself.
func Inline(podUID, volume string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(podUID+volume)))
}

// NeedsAttach says whether the driver's volumes must be attached before they are mounted. One that nothing is said of needs it.
func NeedsAttach(d *storagev1.CSIDriver) bool {
	return d == nil || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}
