package persistentvolume

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

// asVolume is s as a Pod would have it, without the references to secrets, which differ. Those sources that Pods have in
// the same form are shared with s.
func asVolume(name string, s *corev1.PersistentVolumeSource) *corev1.Volume {
	vol := &corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		GCEPersistentDisk: s.GCEPersistentDisk, AWSElasticBlockStore: s.AWSElasticBlockStore, HostPath: s.HostPath, NFS: s.NFS,
		FC: s.FC, Flocker: s.Flocker, VsphereVolume: s.VsphereVolume, Quobyte: s.Quobyte, AzureDisk: s.AzureDisk,
		PhotonPersistentDisk: s.PhotonPersistentDisk, PortworxVolume: s.PortworxVolume,
	}}
	if g := s.Glusterfs; g != nil {
		vol.Glusterfs = &corev1.GlusterfsVolumeSource{EndpointsName: g.EndpointsName, Path: g.Path}
	}
	if r := s.RBD; r != nil {
		vol.RBD = &corev1.RBDVolumeSource{CephMonitors: r.CephMonitors, RBDImage: r.RBDImage, RBDPool: r.RBDPool,
			RadosUser: r.RadosUser, Keyring: r.Keyring}
	}
	if i := s.ISCSI; i != nil {
		vol.ISCSI = &corev1.ISCSIVolumeSource{TargetPortal: i.TargetPortal, IQN: i.IQN, Lun: i.Lun, ISCSIInterface: i.ISCSIInterface,
			DiscoveryCHAPAuth: i.DiscoveryCHAPAuth, SessionCHAPAuth: i.SessionCHAPAuth, InitiatorName: i.InitiatorName}
		if i.SecretRef != nil {
			vol.ISCSI.SecretRef = &corev1.LocalObjectReference{Name: i.SecretRef.Name}
		}
	}
	if c := s.Cinder; c != nil {
		vol.Cinder = &corev1.CinderVolumeSource{VolumeID: c.VolumeID}
	}
	if c := s.CephFS; c != nil {
		vol.CephFS = &corev1.CephFSVolumeSource{Monitors: c.Monitors}
	}
	if f := s.FlexVolume; f != nil {
		vol.FlexVolume = &corev1.FlexVolumeSource{Driver: f.Driver, Options: f.Options}
	}
	if a := s.AzureFile; a != nil {
		vol.AzureFile = &corev1.AzureFileVolumeSource{SecretName: a.SecretName, ShareName: a.ShareName}
	}
	if i := s.ScaleIO; i != nil {
		vol.ScaleIO = &corev1.ScaleIOVolumeSource{Gateway: i.Gateway, System: i.System, VolumeName: i.VolumeName,
			StorageMode: i.StorageMode, FSType: i.FSType}
	}
	if o := s.StorageOS; o != nil {
		vol.StorageOS = &corev1.StorageOSVolumeSource{VolumeName: o.VolumeName, VolumeNamespace: o.VolumeNamespace}
	}
	return vol
}

// validateSource checks that the volume has one source that is whole. affine says that the volume names its nodes.
func validateSource(name string, s *corev1.PersistentVolumeSource, affine bool, path *field.Path) field.ErrorList {
	n, errs := podspec.ValidateHostOrNetworkSource(asVolume(name, s), path)
	errs = append(errs, validateReferences(s, path)...)
	another := func(source string) bool {
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(source), podspec.MoreThanOneSource))
		}
		return n > 1
	}
	if s.Local != nil && !another("local") {
		at := path.Child("local", "path")
		if s.Local.Path == "" {
			errs = append(errs, field.Required(at, ""))
		} else {
			errs = append(errs, v.NoBacksteps(s.Local.Path, at)...)
		}
		if !affine {
			errs = append(errs, field.Required(path.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	}
	if s.CSI != nil && !another("csi") {
		errs = append(errs, validateCSI(s.CSI, path.Child("csi"))...)
	}
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs
}

// validateReferences checks the references to secrets and namespaces, which the volumes of Pods do not have.
func validateReferences(s *corev1.PersistentVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Cinder != nil {
		errs = append(errs, validateSecret(s.Cinder.SecretRef, path.Child("cinder", "secretRef"))...)
	}
	if s.StorageOS != nil && s.StorageOS.SecretRef != nil {
		ref, at := s.StorageOS.SecretRef, path.Child("storageos", "secretRef")
		errs = append(errs, v.Required(ref.Name, at.Child("name"))...)
		errs = append(errs, v.Required(ref.Namespace, at.Child("namespace"))...)
	}
	if s.AzureFile != nil && s.AzureFile.SecretNamespace != nil {
		errs = append(errs, v.Required(*s.AzureFile.SecretNamespace, path.Child("azureFile", "secretNamespace"))...)
	}
	if s.ISCSI != nil && s.ISCSI.SecretRef != nil {
		errs = append(errs, v.Required(s.ISCSI.SecretRef.Name, path.Child("iscsi", "secretRef", "name"))...)
	}
	if s.Glusterfs != nil && s.Glusterfs.EndpointsNamespace != nil {
		at, namespace := path.Child("glusterfs", "endpointsNamespace"), *s.Glusterfs.EndpointsNamespace
		if namespace == "" {
			errs = append(errs, field.Invalid(at, namespace, "if the endpointnamespace is set, it must be a valid namespace name"))
		} else {
			errs = append(errs, v.Messages(apivalidation.ValidateNamespaceName(namespace, false), namespace, at)...)
		}
	}
	return errs
}

func validateCSI(s *corev1.CSIPersistentVolumeSource, path *field.Path) field.ErrorList {
	errs := v.CSIDriverName(s.Driver, path.Child("driver"))
	errs = append(errs, v.Required(s.VolumeHandle, path.Child("volumeHandle"))...)
	for _, ref := range []struct {
		name   string
		secret *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"nodePublishSecretRef", s.NodePublishSecretRef},
		{"controllerExpandSecretRef", s.ControllerExpandSecretRef}, {"nodeStageSecretRef", s.NodeStageSecretRef},
		{"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		errs = append(errs, validateSecret(ref.secret, path.Child(ref.name))...)
	}
	return errs
}

// validateSecret checks a reference to a Secret; nil passes.
func validateSecret(ref *corev1.SecretReference, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	errs := v.Required(ref.Name, path.Child("name"))
	if ref.Name != "" {
		errs = append(errs, v.ObjectName(ref.Name, path.Child("name"))...)
	}
	if ref.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), ""))
	}
	return append(errs, v.Messages(apivalidation.ValidateNamespaceName(ref.Namespace, false), ref.Namespace, path.Child("namespace"))...)
}

// isRoot says whether the volume is the whole host.
func isRoot(h *corev1.HostPathVolumeSource) bool {
	return h != nil && path.Clean(h.Path) == "/"
}
