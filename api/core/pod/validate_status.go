package pod

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

// ValidateStatusUpdate implements resource.StatusValidator: it refuses what no kubelet would report of a Pod that was as
// old says.
func (kind) ValidateStatusUpdate(_ context.Context, p, old *corev1.Pod) field.ErrorList {
	s, was := &p.Status, &old.Status
	errs := v.Finalizers(p.Finalizers, metaPath.Child("finalizers"))
	errs = append(errs, validateAnnotationsUpdate(p, old)...)
	errs = append(errs, podspec.ValidateAnnotations(p.Annotations, &p.Spec, annotationsPath, options(p, old))...)
	errs = append(errs, validateConditions(s.Conditions)...)
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(statusPath.Child("nodeName"), "may not be changed directly"))
	}
	if s.NominatedNodeName != was.NominatedNodeName && s.NominatedNodeName != "" {
		errs = append(errs, v.ObjectName(s.NominatedNodeName, statusPath.Child("nominatedNodeName"))...)
	}
	errs = append(errs, apivalidation.ValidateImmutableField(s.QOSClass, was.QOSClass, statusPath.Child("qosClass"))...)

	init := statusPath.Child("initContainerStatuses")
	main := statusPath.Child("containerStatuses")
	ephemeral := statusPath.Child("ephemeralContainerStatuses")
	errs = append(errs, validateTransitions(s.ContainerStatuses, was.ContainerStatuses, &old.Spec, old.Spec.Containers, main)...)
	errs = append(errs, validateTransitions(s.InitContainerStatuses, was.InitContainerStatuses, &old.Spec, old.Spec.InitContainers, init)...)
	// Nobody ever starts an ephemeral container again.
	never := &corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever}
	errs = append(errs, validateTransitions(s.EphemeralContainerStatuses, was.EphemeralContainerStatuses, never, nil, ephemeral)...)

	errs = append(errs, validateClaimStatuses(p)...)
	errs = append(errs, validateAddresses(p, old)...)
	for _, l := range []struct {
		statuses []corev1.ContainerStatus
		path     *field.Path
	}{{s.ContainerStatuses, main}, {s.InitContainerStatuses, init}, {s.EphemeralContainerStatuses, ephemeral}} {
		errs = append(errs, validateUsers(l.statuses, p.Spec.OS, l.path)...)
	}
	errs = append(errs, validateDevices(s.ContainerStatuses, p.Spec.Containers, main)...)
	errs = append(errs, validateDevices(s.InitContainerStatuses, p.Spec.InitContainers, init)...)
	for i, c := range s.EphemeralContainerStatuses {
		if len(c.AllocatedResourcesStatus) > 0 {
			errs = append(errs, field.Forbidden(ephemeral.Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status"))
		}
	}
	return errs
}

func validateConditions(conditions []corev1.PodCondition) field.ErrorList {
	var errs field.ErrorList
	for i, c := range conditions {
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
			continue
		}
		// The path is that of the metadata, as it always was.
		errs = append(errs, v.QualifiedName(string(c.Type), metaPath.Child("conditions").Index(i).Child("Type"))...)
	}
	return errs
}

// validateTransitions checks that no container which has ended for good is said to be anything else.
func validateTransitions(statuses, old []corev1.ContainerStatus, s *corev1.PodSpec, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, was := range old {
		if was.State.Terminated == nil || mayRestart(was.Name, was.State.Terminated.ExitCode, s, containers) {
			continue
		}
		for _, is := range statuses {
			if is.Name == was.Name && is.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// mayRestart says whether the named container may run again after it has ended with code: by the Pod's policy, or its
// own, or because another container's end restarts all.
func mayRestart(name string, code int32, s *corev1.PodSpec, containers []corev1.Container) bool {
	if s.RestartPolicy == corev1.RestartPolicyAlways || (s.RestartPolicy == corev1.RestartPolicyOnFailure && code != 0) {
		return true
	}
	if restartsAll(s) {
		return true
	}
	for i := range containers {
		c := &containers[i]
		if c.Name != name || c.RestartPolicy == nil {
			continue
		}
		for _, rule := range c.RestartPolicyRules {
			if rule.Action == corev1.ContainerRestartRuleActionRestart && matches(rule.ExitCodes, code) {
				return true
			}
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return code != 0
		}
	}
	return false
}

// restartsAll says whether some container of s can restart all of them.
func restartsAll(s *corev1.PodSpec) bool {
	found := false
	podspec.Visit(s, nil, func(c *corev1.Container, _ *field.Path) {
		found = found || slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
	return found
}

func matches(codes *corev1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if codes == nil {
		return false
	}
	return slices.Contains(codes.Values, code) == (codes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

func validateClaimStatuses(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range p.Status.ResourceClaimStatuses {
		at := statusPath.Child("resourceClaimStatuses").Index(i)
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, v.ObjectName(*s.ResourceClaimName, at.Child("name"))...)
		}
	}
	return errs
}

func validateAddresses(p, old *corev1.Pod) field.ErrorList {
	var ips, hosts, oldIPs, oldHosts []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range p.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	for _, ip := range old.Status.PodIPs {
		oldIPs = append(oldIPs, ip.IP)
	}
	for _, ip := range old.Status.HostIPs {
		oldHosts = append(oldHosts, ip.IP)
	}
	errs := validateIPs(ips, oldIPs, p.Status.PodIPs, statusPath.Child("podIPs"))
	if len(hosts) > 0 && p.Status.HostIP != hosts[0] {
		errs = append(errs, field.Invalid(statusPath.Child("hostIPs").Index(0).Child("ip"), hosts[0], "must be equal to `hostIP`"))
	}
	return append(errs, validateIPs(hosts, oldHosts, p.Status.HostIPs, statusPath.Child("hostIPs"))...)
}

// validateIPs checks that ips is one address, or one of each family. old are those there were, which may stay however
// they are written; list is what stands for all of them in an error.
func validateIPs(ips, old []string, list any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, old)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family"))
	}
	for i, ip := range ips {
		if slices.Contains(ips[:i], ip) {
			errs = append(errs, field.Duplicate(path.Index(i), ip))
		}
	}
	return errs
}

func validateUsers(statuses []corev1.ContainerStatus, os *corev1.PodOS, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range statuses {
		if c.User == nil || c.User.Linux == nil {
			continue
		}
		u, at := c.User.Linux, path.Index(i).Child("linux")
		if os != nil && os.Name == corev1.Windows {
			errs = append(errs, field.Forbidden(at, "cannot be set for a windows pod"))
			continue
		}
		errs = append(errs, v.Messages(validation.IsValidUserID(u.UID), u.UID, at.Child("uid"))...)
		errs = append(errs, v.Messages(validation.IsValidGroupID(u.GID), u.GID, at.Child("gid"))...)
		for j, gid := range u.SupplementalGroups {
			errs = append(errs, v.Messages(validation.IsValidGroupID(gid), gid, at.Child("supplementalGroups").Index(j))...)
		}
	}
	return errs
}

// validateDevices checks the health of devices: only of what a container asks for, and once each.
func validateDevices(statuses []corev1.ContainerStatus, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range statuses {
		n := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
		for j, r := range s.AllocatedResourcesStatus {
			at := path.Index(i).Child("allocatedResourcesStatus").Index(j)
			if n >= 0 {
				if msg := notAskedFor(r.Name, &containers[n]); msg != "" {
					errs = append(errs, field.Invalid(at.Child("name"), r.Name, msg))
				}
			}
			seen := sets.New[corev1.ResourceID]()
			for k, device := range r.Resources {
				at := at.Child("resources").Index(k)
				errs = append(errs, v.Supported(device.Health, at.Child("health"), corev1.ResourceHealthStatusHealthy,
					corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
				if seen.Has(device.ResourceID) {
					errs = append(errs, field.Duplicate(at.Child("resourceID"), device.ResourceID))
				}
				seen.Insert(device.ResourceID)
			}
		}
	}
	return errs
}

func notAskedFor(name corev1.ResourceName, c *corev1.Container) string {
	if !strings.HasPrefix(string(name), "claim:") {
		if _, ok := c.Resources.Requests[name]; ok {
			return ""
		}
		return "must match one of the container's resource requests"
	}
	for _, claim := range c.Resources.Claims {
		full := "claim:" + claim.Name
		if claim.Request != "" {
			full += "/" + claim.Request
		}
		if full == string(name) {
			return ""
		}
	}
	return "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"
}
