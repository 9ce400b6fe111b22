package oci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities are what Docker gives a container.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// capabilities are the default set, less what is dropped, plus what is added: "ALL" first in either, and adding wins over dropping
// "ALL", dropping by name over adding "ALL". available bounds "ALL"; asking by name for one beyond it is an error.
func capabilities(security *runtimeapi.LinuxContainerSecurityContext, available []string) (*specs.LinuxCapabilities, error) {
	if security.GetPrivileged() {
		return capabilitySet(slices.Clone(available), nil), nil
	}
	request := security.GetCapabilities()
	set := slices.Clone(defaultCapabilities)
	add, addAll := names(request.GetAddCapabilities())
	drop, dropAll := names(request.GetDropCapabilities())
	if dropAll {
		set = nil
	}
	if addAll {
		set = slices.Clone(available)
	}
	set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) })
	for _, c := range add {
		if !slices.Contains(available, c) {
			return nil, fmt.Errorf("capability %q is unknown or cannot be given on this machine", c)
		}
		if !slices.Contains(set, c) && !(slices.Contains(drop, c) && !dropAll) {
			set = append(set, c)
		}
	}
	ambient, _ := names(request.GetAddAmbientCapabilities())
	for _, c := range ambient {
		if !slices.Contains(available, c) {
			return nil, fmt.Errorf("capability %q is unknown or cannot be given on this machine", c)
		}
		if !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool { return !slices.Contains(available, c) })
	return capabilitySet(set, ambient), nil
}

// capabilitySet leaves the inheritable set empty but for ambient ones: else a program with file capabilities would gain them as any
// user.
func capabilitySet(set, ambient []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient}
}

// names spells capabilities as the kernel does, and takes "ALL" out.
func names(list []string) (caps []string, all bool) {
	for _, c := range list {
		c = strings.ToUpper(c)
		if c == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		caps = append(caps, c)
	}
	return caps, all
}
