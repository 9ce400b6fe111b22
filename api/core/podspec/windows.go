package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// checkOS checks what operating system the Pod is for, and that nothing is asked of it that it does not have. Pods for
// Windows are accepted, as everywhere; no node of this project runs them.
func (c *checker) checkOS(path *field.Path) field.ErrorList {
	os := c.spec.OS
	if os == nil {
		return nil
	}
	if os.Name == "" {
		return field.ErrorList{field.Required(path.Child("os", "name"), "cannot be empty")}
	}
	switch os.Name {
	case corev1.Linux:
		return c.checkLinux(path)
	case corev1.Windows:
		return c.checkWindows(path)
	}
	return v.Supported(os.Name, path.Child("os"), corev1.Linux, corev1.Windows)
}

func (c *checker) checkLinux(path *field.Path) field.ErrorList {
	const detail = "windows options cannot be set for a linux pod"
	var errs field.ErrorList
	if s := c.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), detail))
	}
	visit(c.spec, path, func(ctr *corev1.Container, at *field.Path) {
		if s := ctr.SecurityContext; s != nil && s.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), detail))
		}
	})
	return errs
}

func (c *checker) checkWindows(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	forbid := func(set bool, at *field.Path, name ...string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(name[0], name[1:]...), "cannot be set for a windows pod"))
		}
	}
	spec := c.spec
	if s := spec.SecurityContext; s != nil {
		at := path.Child("securityContext")
		forbid(s.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(s.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(spec.HostUsers != nil, path, "hostUsers")
		forbid(spec.HostPID, path, "hostPID")
		forbid(spec.HostIPC, path, "hostIPC")
		forbid(s.SeccompProfile != nil, at, "seccompProfile")
		forbid(s.FSGroup != nil, at, "fsGroup")
		forbid(s.FSGroupChangePolicy != nil, at, "fsGroupChangePolicy")
		forbid(len(s.Sysctls) > 0, at, "sysctls")
		forbid(spec.ShareProcessNamespace != nil, path, "shareProcessNamespace")
		forbid(s.RunAsUser != nil, at, "runAsUser")
		forbid(s.RunAsGroup != nil, at, "runAsGroup")
		forbid(s.SupplementalGroups != nil, at, "supplementalGroups")
		forbid(s.SupplementalGroupsPolicy != nil, at, "supplementalGroupsPolicy")
		forbid(s.SELinuxChangePolicy != nil, at, "seLinuxChangePolicy")
	}
	visit(spec, path, func(ctr *corev1.Container, at *field.Path) {
		s := ctr.SecurityContext
		if s == nil {
			return
		}
		at = at.Child("securityContext")
		forbid(s.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(s.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(s.SeccompProfile != nil, at, "seccompProfile")
		forbid(s.Capabilities != nil, at, "capabilities")
		forbid(s.ReadOnlyRootFilesystem != nil, at, "readOnlyRootFilesystem")
		forbid(s.Privileged != nil, at, "privileged")
		forbid(s.AllowPrivilegeEscalation != nil, at, "allowPrivilegeEscalation")
		forbid(s.ProcMount != nil, at, "procMount")
		forbid(s.RunAsUser != nil, at, "runAsUser")
		forbid(s.RunAsGroup != nil, at, "runAsGroup")
	})
	return errs
}

// checkHostProcess checks the containers that run as processes of a Windows host: all of a Pod do or none.
func (c *checker) checkHostProcess(path *field.Path) field.ErrorList {
	var pod *bool
	if s := c.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		pod = s.WindowsOptions.HostProcess
	}
	var errs field.ErrorList
	all, host := 0, 0
	visit(c.spec, path, func(ctr *corev1.Container, at *field.Path) {
		all++
		own := pod
		if s := ctr.SecurityContext; s != nil && s.WindowsOptions != nil && s.WindowsOptions.HostProcess != nil {
			own = s.WindowsOptions.HostProcess
			if pod != nil && *pod != *own {
				errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod)))
			}
		}
		if own != nil && *own {
			host++
		}
	})
	if host == 0 {
		return errs
	}
	if host != all {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !c.spec.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// Bounds of what Windows takes.
const (
	maxCredentialSpecKiB = 64
	maxUserDomain        = 256
	maxUserName          = 104
)

var (
	controlChars   = regexp.MustCompile(`[[:cntrl:]]`)
	netBIOSDomain  = regexp.MustCompile(`^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
	dnsUserDomain  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	dotsAndSpaces  = regexp.MustCompile(`^[. ]+$`)
	userNameStrays = `"/\:;|=,+*?<>@[]`
)

func checkWindowsOptions(o *corev1.WindowsSecurityContextOptions, path *field.Path) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	if o.GMSACredentialSpecName != nil {
		errs = append(errs, v.Messages(validation.IsDNS1123Subdomain(*o.GMSACredentialSpecName), o.GMSACredentialSpecName, path.Child("gmsaCredentialSpecName"))...)
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		at := path.Child("gmsaCredentialSpec")
		if *spec == "" {
			errs = append(errs, field.Invalid(at, spec, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*spec) > maxCredentialSpecKiB*1024 {
			errs = append(errs, field.Invalid(at, spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpecKiB)))
		}
	}
	if o.RunAsUserName != nil {
		for _, msg := range windowsUser(*o.RunAsUserName) {
			errs = append(errs, field.Invalid(path.Child("runAsUserName"), o.RunAsUserName, msg))
		}
	}
	return errs
}

// windowsUser says what is wrong with a user's name, which may begin with a domain and a backslash.
func windowsUser(name string) []string {
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlChars.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Count(name, `\`) > 1:
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	var msgs []string
	user := name
	if domain, rest, ok := strings.Cut(name, `\`); ok {
		user = rest
		if len(domain) >= maxUserDomain {
			msgs = append(msgs, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxUserDomain))
		}
		if !netBIOSDomain.MatchString(domain) && !dnsUserDomain.MatchString(domain) {
			msgs = append(msgs, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	if user == "" {
		msgs = append(msgs, "runAsUserName's User cannot be empty")
	} else if len(user) > maxUserName {
		msgs = append(msgs, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxUserName))
	}
	if dotsAndSpaces.MatchString(user) {
		msgs = append(msgs, "runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, userNameStrays) {
		msgs = append(msgs, "runAsUserName's User cannot contain the following characters: "+userNameStrays)
	}
	return msgs
}
