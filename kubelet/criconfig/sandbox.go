package criconfig

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodLogDir is where the logs of a Pod's containers are.
func PodLogDir(root string, pod *v1.Pod) string {
	return filepath.Join(root, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// Sandbox is the configuration of a Pod's sandbox. users is the Pod's user
// namespace.
func Sandbox(pod *v1.Pod, attempt uint32, node *Node, cgroupParent string, users *runtimeapi.UserNamespace) (*runtimeapi.PodSandboxConfig, []Warning, error) {
	dns, warnings := DNS(pod, node)
	host, fqdn, err := Hostname(pod, node)
	if err != nil {
		return nil, nil, err
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && fqdn != "" {
		if len(fqdn) > 64 {
			return nil, nil, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, 64, len(fqdn))
		}
		host = fqdn
	}
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[LabelPodName] = pod.Name
	labels[LabelPodNamespace] = pod.Namespace
	labels[LabelPodUID] = string(pod.UID)
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: PodLogDir(node.LogDir, pod),
		DnsConfig:    dns,
		Labels:       labels,
		Annotations:  maps.Clone(pod.Annotations),
		Linux:        sandboxLinux(pod, cgroupParent, users),
	}
	if !pod.Spec.HostNetwork {
		cfg.Hostname = host
		cfg.PortMappings = portMappings(pod)
	}
	return cfg, warnings, nil
}

// Hostname is the host name inside a Pod, and the full one if it has a subdomain.
func Hostname(pod *v1.Pod, node *Node) (host, fqdn string, err error) {
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, "", nil
	}
	host = pod.Name
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	} else if len(host) > 63 {
		host = strings.TrimRight(host[:63], "-.")
		if host == "" {
			return "", "", fmt.Errorf("hostname for pod %q was invalid: %q", pod.Name, host)
		}
	}
	if pod.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", host, pod.Spec.Subdomain, pod.Namespace, node.ClusterDomain)
	}
	return host, fqdn, nil
}

func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	each := func(list []v1.Container) {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort <= 0 {
					continue
				}
				proto := runtimeapi.Protocol_TCP
				switch p.Protocol {
				case v1.ProtocolUDP:
					proto = runtimeapi.Protocol_UDP
				case v1.ProtocolSCTP:
					proto = runtimeapi.Protocol_SCTP
				}
				out = append(out, &runtimeapi.PortMapping{Protocol: proto, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
			}
		}
	}
	var sidecars []v1.Container
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == v1.ContainerRestartPolicyAlways {
			sidecars = append(sidecars, pod.Spec.InitContainers[i])
		}
	}
	each(sidecars)
	each(pod.Spec.Containers)
	return out
}

func sandboxLinux(pod *v1.Pod, cgroupParent string, users *runtimeapi.UserNamespace) *runtimeapi.LinuxPodSandboxConfig {
	sc := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod, nil, "", users),
		Privileged:       anyPrivileged(pod),
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	out := &runtimeapi.LinuxPodSandboxConfig{CgroupParent: cgroupParent, SecurityContext: sc}
	if p := pod.Spec.SecurityContext; p != nil {
		sc.SupplementalGroups = groups(p)
		sc.SupplementalGroupsPolicy = groupsPolicy(p)
		sc.SelinuxOptions = selinux(p.SELinuxOptions)
		if p.RunAsUser != nil {
			sc.RunAsUser = &runtimeapi.Int64Value{Value: *p.RunAsUser}
		}
		if p.RunAsGroup != nil && p.RunAsUser != nil {
			sc.RunAsGroup = &runtimeapi.Int64Value{Value: *p.RunAsGroup}
		}
		if len(p.Sysctls) > 0 {
			out.Sysctls = map[string]string{}
			for _, s := range p.Sysctls {
				out.Sysctls[s.Name] = s.Value
			}
		}
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	out.Resources = linuxResources(requests, limits)
	if pod.Spec.Overhead != nil {
		out.Overhead = linuxResources(pod.Spec.Overhead, pod.Spec.Overhead)
	}
	return out
}

func anyPrivileged(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if sc := pod.Spec.EphemeralContainers[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
			return true
		}
	}
	return false
}
