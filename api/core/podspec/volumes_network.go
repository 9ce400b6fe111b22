package podspec

import (
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// networkSources are the sources that only drivers from elsewhere can mount, or nothing any more. They are checked all
// the same: a Pod that one cluster takes, the other takes too.
func networkSources(vol *corev1.Volume, volPath *field.Path) []source {
	s := &vol.VolumeSource
	return []source{
		{"gcePersistentDisk", "persistentDisk", s.GCEPersistentDisk, func(p *field.Path) field.ErrorList {
			d := s.GCEPersistentDisk
			return append(v.Required(d.PDName, p.Child("pdName")), checkPartition(d.Partition, p)...)
		}},
		{"awsElasticBlockStore", "", s.AWSElasticBlockStore, func(p *field.Path) field.ErrorList {
			d := s.AWSElasticBlockStore
			return append(v.Required(d.VolumeID, p.Child("volumeID")), checkPartition(d.Partition, p)...)
		}},
		{"nfs", "", s.NFS, func(p *field.Path) field.ErrorList { return checkNFS(s.NFS, p) }},
		{"iscsi", "", s.ISCSI, func(p *field.Path) field.ErrorList { return checkISCSI(s.ISCSI, vol.Name, volPath, p) }},
		{"glusterfs", "", s.Glusterfs, func(p *field.Path) field.ErrorList {
			return append(v.Required(s.Glusterfs.EndpointsName, p.Child("endpoints")), v.Required(s.Glusterfs.Path, p.Child("path"))...)
		}},
		{"flocker", "", s.Flocker, func(p *field.Path) field.ErrorList { return checkFlocker(s.Flocker, p) }},
		{"rbd", "", s.RBD, func(p *field.Path) field.ErrorList {
			return append(requiredList(s.RBD.CephMonitors, p.Child("monitors")), v.Required(s.RBD.RBDImage, p.Child("image"))...)
		}},
		{"cinder", "", s.Cinder, func(p *field.Path) field.ErrorList {
			return append(v.Required(s.Cinder.VolumeID, p.Child("volumeID")), checkSecretRef(s.Cinder.SecretRef, p)...)
		}},
		{"cephFS", "cephfs", s.CephFS, func(p *field.Path) field.ErrorList { return requiredList(s.CephFS.Monitors, p.Child("monitors")) }},
		{"quobyte", "", s.Quobyte, func(p *field.Path) field.ErrorList { return checkQuobyte(s.Quobyte, p) }},
		{"fc", "", s.FC, func(p *field.Path) field.ErrorList { return checkFC(s.FC, p) }},
		{"flexVolume", "", s.FlexVolume, func(p *field.Path) field.ErrorList { return checkFlex(s.FlexVolume, p) }},
		{"azureFile", "", s.AzureFile, func(p *field.Path) field.ErrorList {
			return append(v.Required(s.AzureFile.SecretName, p.Child("secretName")), v.Required(s.AzureFile.ShareName, p.Child("shareName"))...)
		}},
		{"vsphereVolume", "", s.VsphereVolume, func(p *field.Path) field.ErrorList {
			return v.Required(s.VsphereVolume.VolumePath, p.Child("volumePath"))
		}},
		{"photonPersistentDisk", "", s.PhotonPersistentDisk, func(p *field.Path) field.ErrorList {
			return v.Required(s.PhotonPersistentDisk.PdID, p.Child("pdID"))
		}},
		{"portworxVolume", "", s.PortworxVolume, func(p *field.Path) field.ErrorList {
			return v.Required(s.PortworxVolume.VolumeID, p.Child("volumeID"))
		}},
		{"azureDisk", "", s.AzureDisk, func(p *field.Path) field.ErrorList { return checkAzureDisk(s.AzureDisk, p) }},
		{"storageos", "", s.StorageOS, func(p *field.Path) field.ErrorList {
			errs := v.RequiredDNSLabel(s.StorageOS.VolumeName, p.Child("volumeName"))
			if ns := s.StorageOS.VolumeNamespace; ns != "" {
				errs = append(errs, v.DNSLabel(ns, p.Child("volumeNamespace"))...)
			}
			return append(errs, checkSecretRef(s.StorageOS.SecretRef, p)...)
		}},
		{"scaleIO", "", s.ScaleIO, func(p *field.Path) field.ErrorList {
			errs := append(v.Required(s.ScaleIO.Gateway, p.Child("gateway")), v.Required(s.ScaleIO.System, p.Child("system"))...)
			return append(errs, v.Required(s.ScaleIO.VolumeName, p.Child("volumeName"))...)
		}},
	}
}

func requiredList(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	return nil
}

func checkSecretRef(ref *corev1.LocalObjectReference, p *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return v.Required(ref.Name, p.Child("secretRef", "name"))
}

func checkPartition(n int32, p *field.Path) field.ErrorList {
	if n < 0 || n > 255 {
		return field.ErrorList{field.Invalid(p.Child("partition"), n, validation.InclusiveRangeError(1, 255))}
	}
	return nil
}

func checkNFS(s *corev1.NFSVolumeSource, p *field.Path) field.ErrorList {
	errs := append(v.Required(s.Server, p.Child("server")), v.Required(s.Path, p.Child("path"))...)
	if !path.IsAbs(s.Path) {
		errs = append(errs, field.Invalid(p.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

// The three ways to name an iSCSI target or initiator.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func checkISCSIName(name string, p *field.Path) field.ErrorList {
	for prefix, format := range iscsiNames {
		if strings.HasPrefix(name, prefix) {
			if format.MatchString(name) {
				return nil
			}
			return field.ErrorList{field.Invalid(p, name, "must be valid format")}
		}
	}
	return field.ErrorList{field.Invalid(p, name, "must be valid format starting with iqn, eui, or naa")}
}

func checkISCSI(s *corev1.ISCSIVolumeSource, name string, volPath, p *field.Path) field.ErrorList {
	errs := v.Required(s.TargetPortal, p.Child("targetPortal"))
	if s.IQN == "" {
		errs = append(errs, field.Required(p.Child("iqn"), ""))
	} else {
		errs = append(errs, checkISCSIName(s.IQN, p.Child("iqn"))...)
	}
	if s.Lun < 0 || s.Lun > 255 {
		errs = append(errs, field.Invalid(p.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(p.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, checkISCSIName(*s.InitiatorName, p.Child("initiatorname"))...)
		if len(name+":"+s.TargetPortal) > 64 {
			errs = append(errs, field.Invalid(volPath.Child("name"), name,
				"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
		}
	}
	return errs
}

func checkFlocker(s *corev1.FlockerVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.DatasetName == "" && s.DatasetUUID == "":
		errs = append(errs, field.Required(p, "one of datasetName and datasetUUID is required"))
	case s.DatasetName != "" && s.DatasetUUID != "":
		errs = append(errs, field.Invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(s.DatasetName, "/") {
		errs = append(errs, field.Invalid(p.Child("datasetName"), s.DatasetName, "must not contain '/'"))
	}
	return errs
}

func checkQuobyte(s *corev1.QuobyteVolumeSource, p *field.Path) field.ErrorList {
	const registry = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	switch {
	case s.Registry == "":
		errs = append(errs, field.Required(p.Child("registry"), registry))
	case len(s.Tenant) >= 65:
		errs = append(errs, field.Required(p.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(p.Child("registry"), s.Registry, registry))
			}
		}
	}
	return append(errs, v.Required(s.Volume, p.Child("volume"))...)
}

func checkFC(s *corev1.FCVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	targets := p.Child("targetWWNs")
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		errs = append(errs, field.Required(targets, "must specify either targetWWNs or wwids, but not both"))
	}
	if len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0 {
		errs = append(errs, field.Invalid(targets, s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(s.TargetWWNs) == 0 {
		return errs
	}
	if s.Lun == nil {
		errs = append(errs, field.Required(p.Child("lun"), "lun is required if targetWWNs is specified"))
	} else if *s.Lun < 0 || *s.Lun > 255 {
		errs = append(errs, field.Invalid(p.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255)))
	}
	return errs
}

func checkFlex(s *corev1.FlexVolumeSource, p *field.Path) field.ErrorList {
	errs := v.Required(s.Driver, p.Child("driver"))
	keys := make([]string, 0, len(s.Options))
	for key := range s.Options {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(p.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func checkAzureDisk(s *corev1.AzureDiskVolumeSource, p *field.Path) field.ErrorList {
	errs := append(v.Required(s.DiskName, p.Child("diskName")), v.Required(s.DataDiskURI, p.Child("diskURI"))...)
	errs = append(errs, v.OptionalEnum(s.CachingMode, p.Child("cachingMode"),
		corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	errs = append(errs, v.OptionalEnum(s.Kind, p.Child("kind"),
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	if s.Kind == nil {
		return errs
	}
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, prefix) {
		errs = append(errs, field.NotSupported(p.Child("diskURI"), s.DataDiskURI, []string{form}))
	}
	return errs
}
