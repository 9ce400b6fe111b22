package podspec

import corev1 "k8s.io/api/core/v1"

const (
	defaultISCSIInterface   = "default"
	defaultRBDPool          = "rbd"
	defaultRBDUser          = "admin"
	defaultRBDKeyring       = "/etc/ceph/keyring"
	defaultScaleIOMode      = "ThinProvisioned"
	defaultScaleIOFS        = "xfs"
	defaultAzureDiskFS      = "ext4"
	defaultTokenExpiryHours = 1
)

// DefaultVolume fills in what the user left out of a volume. A volume without any source is an emptyDir.
func DefaultVolume(v *corev1.Volume) {
	if noSource(&v.VolumeSource) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.Image != nil {
		setIfZero(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	}
	if v.HostPath != nil {
		setIfNil(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		setIfNil(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if v.ConfigMap != nil {
		setIfNil(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if v.DownwardAPI != nil {
		setIfNil(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(v.DownwardAPI.Items)
	}
	if v.Projected != nil {
		defaultProjected(v.Projected)
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		DefaultClaimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec)
	}
	defaultNetworkVolume(&v.VolumeSource)
}

// DefaultClaimSpec fills in what the user left out of the spec of a PersistentVolumeClaim, or of a template of one.
func DefaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	setIfNil(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	defaultQuantities(s.Resources.Limits)
	defaultQuantities(s.Resources.Requests)
}

func defaultProjected(p *corev1.ProjectedVolumeSource) {
	setIfNil(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		src := &p.Sources[i]
		if src.DownwardAPI != nil {
			defaultDownward(src.DownwardAPI.Items)
		}
		if src.ServiceAccountToken != nil {
			setIfNil(&src.ServiceAccountToken.ExpirationSeconds, defaultTokenExpiryHours*60*60)
		}
	}
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// defaultNetworkVolume fills in the sources that only storage drivers outside this project can mount. They are kept as
// the API promises, so that a Pod reads back the same everywhere.
func defaultNetworkVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		setIfZero(&v.ISCSI.ISCSIInterface, defaultISCSIInterface)
	}
	if v.RBD != nil {
		setIfZero(&v.RBD.RBDPool, defaultRBDPool)
		setIfZero(&v.RBD.RadosUser, defaultRBDUser)
		setIfZero(&v.RBD.Keyring, defaultRBDKeyring)
	}
	if v.ScaleIO != nil {
		setIfZero(&v.ScaleIO.StorageMode, defaultScaleIOMode)
		setIfZero(&v.ScaleIO.FSType, defaultScaleIOFS)
	}
	if v.AzureDisk != nil {
		setIfNil(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setIfNil(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		setIfNil(&v.AzureDisk.FSType, defaultAzureDiskFS)
		setIfNil(&v.AzureDisk.ReadOnly, false)
	}
}
