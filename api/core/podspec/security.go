package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// checkPodSecurity checks the security context of the Pod, whose PodSpec is at path.
func (c *checker) checkPodSecurity(path *field.Path) field.ErrorList {
	s := c.spec.SecurityContext
	if s == nil {
		s = &corev1.PodSecurityContext{}
	}
	at := path.Child("securityContext")
	errs := checkID(s.FSGroup, validation.IsValidGroupID, at.Child("fsGroup"))
	errs = append(errs, checkID(s.RunAsUser, validation.IsValidUserID, at.Child("runAsUser"))...)
	errs = append(errs, checkID(s.RunAsGroup, validation.IsValidGroupID, at.Child("runAsGroup"))...)
	for i := range s.SupplementalGroups {
		errs = append(errs, checkID(&s.SupplementalGroups[i], validation.IsValidGroupID, at.Child("supplementalGroups").Index(i))...)
	}
	if share := c.spec.ShareProcessNamespace; share != nil && *share && c.spec.HostPID {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	errs = append(errs, c.checkSysctls(s.Sysctls, at.Child("sysctls"))...)
	errs = append(errs, v.OptionalEnum(s.FSGroupChangePolicy, at.Child("fsGroupChangePolicy"),
		corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	errs = append(errs, checkSeccomp(s.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, checkWindowsOptions(s.WindowsOptions, at.Child("windowsOptions"))...)
	errs = append(errs, ValidateAppArmor(s.AppArmorProfile, at.Child("appArmorProfile"))...)
	errs = append(errs, v.OptionalEnum(s.SupplementalGroupsPolicy, at.Child("supplementalGroupsPolicy"),
		corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	errs = append(errs, v.OptionalEnum(s.SELinuxChangePolicy, at.Child("seLinuxChangePolicy"),
		corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	return errs
}

func checkID(id *int64, check func(int64) []string, path *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return v.Messages(check(*id), *id, path)
}

const maxSysctl = 253

var sysctlFormat = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c *checker) checkSysctls(sysctls []corev1.Sysctl, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range sysctls {
		at := path.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > maxSysctl || !sysctlFormat.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlFormat)))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
		if !c.tolerated.hostSysctls {
			if err := checkHostSysctl(s.Name, c.spec, at); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// checkHostSysctl forbids the sysctls of a namespace that the Pod shares with the host: it would set the host's.
func checkHostSysctl(name string, s *corev1.PodSpec, path *field.Path) *field.Error {
	dotted := NormalizeSysctl(name)
	if s.HostNetwork && strings.HasPrefix(dotted, "net.") {
		return field.Invalid(path, name, "may not be specified when 'hostNetwork' is true")
	}
	if s.HostIPC && (strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "kernel.msg") ||
		strings.HasPrefix(dotted, "fs.mqueue.") || dotted == "kernel.sem") {
		return field.Invalid(path, name, "may not be specified when 'hostIPC' is true")
	}
	return nil
}

// NormalizeSysctl writes the name of a sysctl with dots between its parts. Where it was written with slashes, a dot in it
// belongs to a part (net/ipv4/conf/eth0.1/rp_filter) and becomes a slash.
func NormalizeSysctl(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

func checkSeccomp(p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, v.Supported(p.Type, path.Child("type"), corev1.SeccompProfileTypeLocalhost,
			corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	at := path.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(at, p, "can only be set when seccomp type is Localhost"))
	case p.Type != corev1.SeccompProfileTypeLocalhost:
	case p.LocalhostProfile == nil:
		errs = append(errs, field.Required(at, "must be set when seccomp type is Localhost"))
	default:
		errs = append(errs, v.DescendingPath(*p.LocalhostProfile, at)...)
	}
	return errs
}

// maxAppArmorProfile is the longest path the kernel takes, less the terminating zero.
const maxAppArmorProfile = 4095

// ValidateAppArmor checks an AppArmor profile; nil passes.
func ValidateAppArmor(p *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
			errs = append(errs, field.Required(at, "must be set when AppArmor type is Localhost"))
		case strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile:
			errs = append(errs, field.Invalid(at, *p.LocalhostProfile, "must not be padded with whitespace"))
		}
		if p.LocalhostProfile != nil && len(*p.LocalhostProfile) > maxAppArmorProfile {
			errs = append(errs, field.TooLong(at, "", maxAppArmorProfile))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		errs = append(errs, field.Required(path.Child("type"), "type is required when appArmorProfile is set"))
	default:
		errs = append(errs, v.Supported(p.Type, path.Child("type"), corev1.AppArmorProfileTypeLocalhost,
			corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)...)
	}
	return errs
}

func (c *checker) checkContainerSecurity(s *corev1.SecurityContext, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := checkID(s.RunAsUser, validation.IsValidUserID, path.Child("runAsUser"))
	errs = append(errs, checkID(s.RunAsGroup, validation.IsValidGroupID, path.Child("runAsGroup"))...)
	if s.ProcMount != nil {
		at := path.Child("procMount")
		errs = append(errs, v.Supported(*s.ProcMount, at, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if *s.ProcMount == corev1.UnmaskedProcMount && hostUsers(c.spec) {
			errs = append(errs, field.Invalid(at, s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, checkSeccomp(s.SeccompProfile, path.Child("seccompProfile"))...)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(path, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil {
			for _, capability := range s.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(path, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, checkWindowsOptions(s.WindowsOptions, path.Child("windowsOptions"))...)
	return append(errs, ValidateAppArmor(s.AppArmorProfile, path.Child("appArmorProfile"))...)
}

// hostUsers says whether users in the Pod are those of the host, as they are unless it says otherwise.
func hostUsers(s *corev1.PodSpec) bool { return s.HostUsers == nil || *s.HostUsers }

// checkHostUsers forbids a user namespace of the Pod's own together with other namespaces of the host, or with block
// devices, whose owner cannot be mapped.
func (c *checker) checkHostUsers(path *field.Path) field.ErrorList {
	if hostUsers(c.spec) {
		return nil
	}
	const detail = "when `hostUsers` is false"
	var errs field.ErrorList
	if c.spec.HostNetwork {
		errs = append(errs, field.Forbidden(path.Child("hostNetwork"), detail))
	}
	if c.spec.HostPID {
		errs = append(errs, field.Forbidden(path.Child("hostPID"), detail))
	}
	if c.spec.HostIPC {
		errs = append(errs, field.Forbidden(path.Child("hostIPC"), detail))
	}
	visit(c.spec, path, func(ctr *corev1.Container, at *field.Path) {
		if len(ctr.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(at.Child("volumeDevices"), detail))
		}
	})
	return errs
}
