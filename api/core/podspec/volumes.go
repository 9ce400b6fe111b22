package podspec

import (
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// checkVolumes checks the volumes and takes down the valid ones for the containers to refer to.
func (c *checker) checkVolumes(path *field.Path) field.ErrorList {
	c.volumes = make(map[string]*corev1.VolumeSource, len(c.spec.Volumes))
	// made holds the names of the claims that will be made for this very Pod.
	made := sets.New[string]()
	if c.Meta != nil && c.Meta.Name != "" {
		for i := range c.spec.Volumes {
			if c.spec.Volumes[i].Ephemeral != nil {
				made.Insert(c.Meta.Name + "-" + c.spec.Volumes[i].Name)
			}
		}
	}
	var errs field.ErrorList
	for i := range c.spec.Volumes {
		vol, at := &c.spec.Volumes[i], path.Index(i)
		bad := c.checkSource(vol, at)
		bad = append(bad, v.RequiredDNSLabel(vol.Name, at.Child("name"))...)
		if _, ok := c.volumes[vol.Name]; ok {
			bad = append(bad, field.Duplicate(at.Child("name"), vol.Name))
		}
		if len(bad) == 0 {
			c.volumes[vol.Name] = &vol.VolumeSource
		}
		errs = append(errs, bad...)
		if claim := vol.PersistentVolumeClaim; claim != nil && made.Has(claim.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return errs
}

// checkSource checks the first source of vol; any further one is forbidden, and not looked at. The order is that of the
// names below, which is not that of the type.
func (c *checker) checkSource(vol *corev1.Volume, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	for _, s := range c.sources(vol, path) {
		if reflect.ValueOf(s.source).IsNil() {
			continue
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(s.name), MoreThanOneSource))
			continue
		}
		at := s.at
		if at == "" {
			at = s.name
		}
		errs = append(errs, s.check(path.Child(at))...)
	}
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs
}

// source is one possible source of a volume. A volume that has another already is forbidden it by its name; its own
// errors are at at, where that differs.
type source struct {
	name, at string
	source   any
	check    func(path *field.Path) field.ErrorList
}

func (c *checker) sources(vol *corev1.Volume, path *field.Path) []source {
	s := &vol.VolumeSource
	return append([]source{
		{"emptyDir", "", s.EmptyDir, func(p *field.Path) field.ErrorList { return checkEmptyDir(s.EmptyDir, p) }},
		{"hostPath", "", s.HostPath, func(p *field.Path) field.ErrorList { return HostPath(s.HostPath, p) }},
		{"gitRepo", "", s.GitRepo, func(p *field.Path) field.ErrorList {
			return append(v.Required(s.GitRepo.Repository, p.Child("repository")),
				v.DescendingPath(s.GitRepo.Directory, p.Child("directory"))...)
		}},
		{"secret", "", s.Secret, func(p *field.Path) field.ErrorList {
			errs := append(v.Required(s.Secret.SecretName, p.Child("secretName")), v.Mode(s.Secret.DefaultMode, p.Child("defaultMode"))...)
			return append(errs, checkItems(s.Secret.Items, p.Child("items"))...)
		}},
		{"configMap", "", s.ConfigMap, func(p *field.Path) field.ErrorList {
			errs := append(v.Required(s.ConfigMap.Name, p.Child("name")), v.Mode(s.ConfigMap.DefaultMode, p.Child("defaultMode"))...)
			return append(errs, checkItems(s.ConfigMap.Items, p.Child("items"))...)
		}},
		{"persistentVolumeClaim", "", s.PersistentVolumeClaim, func(p *field.Path) field.ErrorList {
			return v.Required(s.PersistentVolumeClaim.ClaimName, p.Child("claimName"))
		}},
		{"downwarAPI", "downwardAPI", s.DownwardAPI, func(p *field.Path) field.ErrorList {
			errs := v.Mode(s.DownwardAPI.DefaultMode, p.Child("defaultMode"))
			for i := range s.DownwardAPI.Items {
				errs = append(errs, checkDownwardFile(&s.DownwardAPI.Items[i], p)...)
			}
			return errs
		}},
		{"projected", "", s.Projected, func(p *field.Path) field.ErrorList { return c.checkProjected(s.Projected, p) }},
		{"csi", "", s.CSI, func(p *field.Path) field.ErrorList { return checkCSI(s.CSI, p) }},
		{"ephemeral", "", s.Ephemeral, func(p *field.Path) field.ErrorList { return c.checkEphemeralVolume(vol, path, p) }},
		{"image", "", s.Image, func(p *field.Path) field.ErrorList {
			var errs field.ErrorList
			// A template may leave the reference to whoever makes Pods of it.
			if c.Pod {
				errs = v.Required(s.Image.Reference, p.Child("reference"))
			}
			return append(errs, checkPullPolicy(s.Image.PullPolicy, p.Child("pullPolicy"))...)
		}},
	}, networkSources(vol, path)...)
}

func checkEmptyDir(d *corev1.EmptyDirVolumeSource, path *field.Path) field.ErrorList {
	if d.SizeLimit != nil && d.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

// HostPath checks a directory of the host.
func HostPath(h *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	errs := v.NoBacksteps(h.Path, path.Child("path"))
	return append(errs, v.OptionalEnum(h.Type, path.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev,
		corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
		corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func checkItems(items []corev1.KeyToPath, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		at := path.Index(i)
		errs = append(errs, v.Required(items[i].Key, at.Child("key"))...)
		errs = append(errs, v.Required(items[i].Path, at.Child("path"))...)
		errs = append(errs, v.NonReservedPath(items[i].Path, at.Child("path"))...)
		errs = append(errs, v.Mode(items[i].Mode, at.Child("mode"))...)
	}
	return errs
}

func checkDownwardFile(f *corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	errs := v.Required(f.Path, path.Child("path"))
	errs = append(errs, v.NonReservedPath(f.Path, path.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, checkFieldRef(f.FieldRef, volumeFields, path.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, checkResourceFieldRef(f.ResourceFieldRef, true, path.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, v.Mode(f.Mode, path.Child("mode"))...)
}

func checkCSI(s *corev1.CSIVolumeSource, path *field.Path) field.ErrorList {
	errs := v.CSIDriverName(s.Driver, path.Child("driver"))
	if ref := s.NodePublishSecretRef; ref != nil {
		if ref.Name == "" {
			errs = append(errs, field.Required(path.Child("nodePublishSecretRef", "name"), ""))
		} else {
			errs = append(errs, v.ObjectName(ref.Name, path.Child("name"))...)
		}
	}
	return errs
}

// checkEphemeralVolume checks the template of a claim that lives as long as the Pod, and that its name will be one.
func (c *checker) checkEphemeralVolume(vol *corev1.Volume, volPath, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t := vol.Ephemeral.VolumeClaimTemplate; t == nil {
		errs = append(errs, field.Required(path.Child("volumeClaimTemplate"), ""))
	} else {
		at := path.Child("volumeClaimTemplate")
		errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, at.Child("metadata", "annotations"))...)
		errs = append(errs, v.Labels(t.Labels, at.Child("metadata", "labels"))...)
		errs = append(errs, v.OnlyFields(t.ObjectMeta, at.Child("metadata"), "cannot be set", "Annotations", "Labels")...)
		errs = append(errs, ValidateClaimSpec(&t.Spec, at.Child("spec"))...)
	}
	if c.Meta != nil && c.Meta.Name != "" && vol.Name != "" {
		claim := c.Meta.Name + "-" + vol.Name
		for _, msg := range apivalidation.NameIsDNSSubdomain(claim, false) {
			errs = append(errs, field.Invalid(volPath.Child("name"), vol.Name, fmt.Sprintf("PVC name %q: %v", claim, msg)))
		}
	}
	return errs
}
