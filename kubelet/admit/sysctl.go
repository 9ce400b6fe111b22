package admit

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/peapod/peapod/kubelet/pod"
)

// safeSysctls are those that any Pod may set: they belong to its namespaces and
// take nothing from other Pods
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls).
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// Sysctls are the kernel settings that Pods may have on a node.
type Sysctls struct {
	names    map[string]sysctl.Namespace
	prefixes map[string]sysctl.Namespace
}

// A name, with dots or slashes between its parts, or the beginning of names before a *.
var sysctlPattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)

const maxSysctl = 253 // bytes of a name

// NewSysctls allows the safe ones and those that unsafe names: names, or
// beginnings of names that end in *. Each must belong to a namespace, so that a
// Pod changes its own setting and not the machine's.
func NewSysctls(unsafe []string) (*Sysctls, error) {
	s := &Sysctls{names: map[string]sysctl.Namespace{}, prefixes: map[string]sysctl.Namespace{}}
	for _, name := range safeSysctls {
		s.names[name], _, _ = sysctl.GetNamespace(name)
	}
	var errs []error
	for _, pattern := range unsafe {
		namespace, name, prefix := sysctl.GetNamespace(pattern)
		switch {
		case len(pattern) > maxSysctl || !sysctlPattern.MatchString(pattern):
			errs = append(errs, fmt.Errorf("%q: must have at most %d characters and match regex %s", pattern, maxSysctl, sysctlPattern))
		case namespace == sysctl.UnknownNamespace:
			errs = append(errs, fmt.Errorf("%q: not known to belong to a namespace: a Pod would set it for the whole machine", pattern))
		case prefix:
			s.prefixes[name] = namespace
		default:
			s.names[name] = namespace
		}
	}
	return s, errors.Join(errs...)
}

// refuse returns why a Pod may not have its sysctls here, nil if it may.
func (s *Sysctls) refuse(p *v1.Pod) *pod.Refusal {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	for _, asked := range p.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(asked.Name)
		problem := "not allowlisted"
		if namespace, ok := s.find(name); ok {
			switch {
			case namespace == sysctl.IPCNamespace && p.Spec.HostIPC, namespace == sysctl.NetNamespace && p.Spec.HostNetwork:
				problem = fmt.Sprintf("not allowed with host %s enabled", namespace)
			default:
				continue
			}
		}
		return &pod.Refusal{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q %s", name, problem)}
	}
	return nil
}

func (s *Sysctls) find(name string) (sysctl.Namespace, bool) {
	if namespace, ok := s.names[name]; ok {
		return namespace, true
	}
	for prefix, namespace := range s.prefixes {
		if strings.HasPrefix(name, prefix) {
			return namespace, true
		}
	}
	return sysctl.UnknownNamespace, false
}
