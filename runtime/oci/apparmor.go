package oci

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the deprecated string apparmor_profile of a container says.
const (
	localhostPrefix    = "localhost/"
	unconfinedAppArmor = "unconfined"
)

// requestedAppArmor is what a container asks for: of the two fields, which kubelets may fill both, the structured one counts.
func requestedAppArmor(security *runtimeapi.LinuxContainerSecurityContext) (*runtimeapi.SecurityProfile, error) {
	if p := security.GetApparmor(); p != nil {
		return p, nil
	}
	switch name := security.GetApparmorProfile(); {
	case name == "":
		return nil, nil
	case name == "runtime/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case name == unconfinedAppArmor:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case strings.HasPrefix(name, localhostPrefix):
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}, nil
	default:
		return nil, fmt.Errorf("apparmor profile %q: want runtime/default, unconfined or localhost/NAME", name)
	}
}

// AsksForAppArmor says that Spec wants to know which profiles are loaded.
func AsksForAppArmor(config *runtimeapi.ContainerConfig) bool {
	security := securityContext(config)
	p, err := requestedAppArmor(security)
	return err == nil && p != nil && p.ProfileType == runtimeapi.SecurityProfile_Localhost && !security.GetPrivileged()
}

// ReadAppArmorLoaded reads the kernel's list of profiles, one a line: NAME (MODE).
func ReadAppArmorLoaded(r io.Reader) ([]string, error) {
	loaded := []string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if i := strings.LastIndex(lines.Text(), " ("); i > 0 {
			loaded = append(loaded, lines.Text()[:i])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the list of AppArmor profiles: %w", err)
	}
	return loaded, nil
}

// appArmorProfile is the profile to enter, empty for none.
func appArmorProfile(in *Input, security *runtimeapi.LinuxContainerSecurityContext) (string, error) {
	profile, err := requestedAppArmor(security)
	if err != nil || profile == nil || security.GetPrivileged() {
		return "", err
	}
	switch profile.ProfileType {
	case runtimeapi.SecurityProfile_Localhost:
		name := strings.TrimPrefix(profile.LocalhostRef, localhostPrefix)
		if !in.Host.AppArmor {
			return "", fmt.Errorf("apparmor profile %q: AppArmor is not enabled on this machine", name)
		}
		if in.AppArmorLoaded != nil && !slices.Contains(in.AppArmorLoaded, name) {
			return "", fmt.Errorf("apparmor profile %q is not loaded on this machine: load it with apparmor_parser", name)
		}
		return name, nil
	case runtimeapi.SecurityProfile_Unconfined:
		if in.Host.AppArmor {
			return unconfinedAppArmor, nil
		}
	}
	return "", nil
}
