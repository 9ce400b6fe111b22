package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

func (c *checker) checkContainers(path *field.Path) field.ErrorList {
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		ctr, at := &c.spec.Containers[i], path.Index(i)
		errs = append(errs, c.checkContainer(ctr, at)...)
		if names.Has(ctr.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		}
		names.Insert(ctr.Name)
		errs = append(errs, c.checkLifecycleAndProbes(ctr, at)...)
		errs = append(errs, checkRestart(ctr, at)...)
	}
	// Containers run side by side: a port of the host can be only one's.
	return append(errs, checkHostPorts(c.spec.Containers, path)...)
}

func (c *checker) checkInitContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, ctr := range c.spec.Containers {
		names.Insert(ctr.Name)
	}
	for i := range c.spec.InitContainers {
		ctr, at := &c.spec.InitContainers[i], path.Index(i)
		errs = append(errs, c.checkContainer(ctr, at)...)
		errs = append(errs, checkRestart(ctr, at)...)
		if names.Has(ctr.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		} else if ctr.Name != "" {
			names.Insert(ctr.Name)
		}
		// They run one after the other: each may have the port that another had.
		errs = append(errs, checkHostPorts(c.spec.InitContainers[i:i+1], path)...)
		if IsSidecar(ctr) {
			errs = append(errs, c.checkLifecycleAndProbes(ctr, at)...)
			continue
		}
		const detail = "may not be set for init containers without restartPolicy=Always"
		if ctr.Lifecycle != nil {
			errs = append(errs, field.Forbidden(at.Child("lifecycle"), detail))
		}
		if ctr.LivenessProbe != nil {
			errs = append(errs, field.Forbidden(at.Child("livenessProbe"), detail))
		}
		if ctr.ReadinessProbe != nil {
			errs = append(errs, field.Forbidden(at.Child("readinessProbe"), detail))
		}
		if ctr.StartupProbe != nil {
			errs = append(errs, field.Forbidden(at.Child("startupProbe"), detail))
		}
	}
	return errs
}

// IsSidecar says whether an init container keeps running beside the containers.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// ephemeralFields are those a container that was added for debugging may have: nothing that the Pod could come to rely on.
var ephemeralFields = []string{
	"Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
	"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY",
}

func (c *checker) checkEphemeralContainers(path *field.Path) field.ErrorList {
	if len(c.spec.EphemeralContainers) == 0 {
		return nil
	}
	targets := sets.New[string]()
	for _, ctr := range c.spec.Containers {
		targets.Insert(ctr.Name)
	}
	for _, ctr := range c.spec.InitContainers {
		targets.Insert(ctr.Name)
	}
	names := targets.Clone()
	const detail = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	for i := range c.spec.EphemeralContainers {
		e, at := &c.spec.EphemeralContainers[i], path.Index(i)
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = append(errs, c.checkContainer(ctr, at)...)
		errs = append(errs, checkImageSpace(ctr, at)...)
		if names.Has(e.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names.Insert(e.Name)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		errs = append(errs, v.OnlyFields(e.EphemeralContainerCommon, at, detail, ephemeralFields...)...)
		for j, m := range e.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), detail))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), detail))
			}
		}
	}
	return errs
}

// checkContainer checks what holds for containers of every sort.
func (c *checker) checkContainer(ctr *corev1.Container, path *field.Path) field.ErrorList {
	errs := v.RequiredDNSLabel(ctr.Name, path.Child("name"))
	errs = append(errs, v.Required(ctr.Image, path.Child("image"))...)
	errs = append(errs, v.Enum(ctr.TerminationMessagePolicy, path.Child("terminationMessagePolicy"),
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, checkPorts(ctr.Ports, path.Child("ports"))...)
	errs = append(errs, checkEnv(ctr.Env, path.Child("env"))...)
	errs = append(errs, checkEnvFrom(ctr.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, c.checkMounts(ctr, path.Child("volumeMounts"))...)
	errs = append(errs, c.checkDevices(ctr, path.Child("volumeDevices"))...)
	errs = append(errs, checkPullPolicy(ctr.ImagePullPolicy, path.Child("imagePullPolicy"))...)
	errs = append(errs, c.checkResources(&ctr.Resources, v.ContainerResourceName, path.Child("resources"))...)
	errs = append(errs, c.checkResizePolicy(ctr.ResizePolicy, path.Child("resizePolicy"))...)
	return append(errs, c.checkContainerSecurity(ctr.SecurityContext, path.Child("securityContext"))...)
}

func checkPullPolicy(p corev1.PullPolicy, path *field.Path) field.ErrorList {
	return v.Enum(p, path, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

// checkImageSpace forbids the white space around an image that templates are allowed.
func checkImageSpace(ctr *corev1.Container, path *field.Path) field.ErrorList {
	if strings.TrimSpace(ctr.Image) == ctr.Image {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("image"), ctr.Image, "must not have leading or trailing whitespace")}
}

func checkPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				errs = append(errs, v.Messages(msgs, p.Name, at.Child("name"))...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, v.PortNumber(p.ContainerPort, at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, v.PortNumber(p.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, v.Enum(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return errs
}

// checkHostPorts checks that no two of the containers, which are at path, want the same port of the host.
func checkHostPorts(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range containers {
		for j, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

// Bounds of restartPolicyRules.
const (
	maxRestartRules     = 20
	maxRestartExitCodes = 255
)

// checkRestart checks a container's own restart policy and the exit codes that are exceptions to it.
func checkRestart(ctr *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p := ctr.RestartPolicy; p != nil {
		errs = append(errs, v.Supported(*p, path.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	} else if len(ctr.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	rules := path.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > maxRestartRules {
		errs = append(errs, field.TooMany(rules, n, maxRestartRules))
	}
	for i, rule := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, v.Supported(rule.Action, at.Child("action"),
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		at = at.Child("exitCodes")
		errs = append(errs, v.Supported(rule.ExitCodes.Operator, at.Child("operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > maxRestartExitCodes {
			errs = append(errs, field.TooMany(at.Child("values"), n, maxRestartExitCodes))
		}
	}
	return errs
}

// checkResizePolicy checks what a change of a running container's resources does to it. A Pod whose containers never
// restart cannot be resized by restarting them.
func (c *checker) checkResizePolicy(policies []corev1.ContainerResizePolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, v.Enum(p.ResourceName, path, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, v.Enum(p.RestartPolicy, path, corev1.NotRequired, corev1.RestartContainer)...)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
	return errs
}
