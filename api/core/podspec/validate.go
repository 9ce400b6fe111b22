package podspec

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// Options says where a PodSpec stands. The zero value is that of a template in a new object.
type Options struct {
	// Pod says that the spec is that of a Pod rather than of a template of Pods; some rules came too late for templates,
	// and some hold only once the Pod is made.
	Pod bool
	// Meta is the metadata beside the spec. It may be nil.
	Meta *metav1.ObjectMeta
	// Old and OldMeta are what an update replaces, nil on create. What is against a rule that came late, and was so
	// already, may stay.
	Old     *corev1.PodSpec
	OldMeta *metav1.ObjectMeta
}

// checker checks one PodSpec. It holds what the checks of single fields need to know of the rest.
type checker struct {
	Options
	spec      *corev1.PodSpec
	tolerated tolerated
	// volumes are those by name that are themselves valid.
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

// ValidateTemplate checks a template of Pods at path. old is the template that is replaced, nil if none is.
func ValidateTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	o := Options{Meta: &t.ObjectMeta}
	if old != nil {
		o.Old, o.OldMeta = &old.Spec, &old.ObjectMeta
	}
	errs := v.TemplateMeta(&t.ObjectMeta, path)
	errs = append(errs, ValidateAnnotations(t.Annotations, &t.Spec, path.Child("annotations"), o)...)
	// The name of a Pod made from the template is not known, so nothing may be derived from it.
	o.Meta = nil
	errs = append(errs, ValidateSpec(&t.Spec, path.Child("spec"), o)...)
	errs = append(errs, seccompAnnotationsMatch(&t.ObjectMeta, &t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"),
			"ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidateSpec checks a PodSpec at path. Defaults must be filled in.
func ValidateSpec(s *corev1.PodSpec, path *field.Path, o Options) field.ErrorList {
	c := &checker{Options: o, spec: s, tolerated: toleratedOf(o), claims: sets.New[string]()}
	var errs field.ErrorList
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	errs = append(errs, c.checkVolumes(path.Child("volumes"))...)
	errs = append(errs, c.checkResourceClaims(path.Child("resourceClaims"))...)
	errs = append(errs, c.checkContainers(path.Child("containers"))...)
	errs = append(errs, c.checkInitContainers(path.Child("initContainers"))...)
	errs = append(errs, c.checkEphemeralContainers(path.Child("ephemeralContainers"))...)
	errs = append(errs, c.checkEnvFiles(path)...)
	errs = append(errs, c.checkPodResources(path.Child("resources"))...)
	errs = append(errs, c.checkHostNetworkPorts(path)...)
	errs = append(errs, v.Enum(s.RestartPolicy, path.Child("restartPolicy"),
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, v.Enum(s.DNSPolicy, path.Child("dnsPolicy"),
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, v.Labels(s.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, c.checkPodSecurity(path)...)
	errs = append(errs, c.checkAffinity(path.Child("affinity"))...)
	errs = append(errs, c.checkDNSConfig(path.Child("dnsConfig"))...)
	for i, gate := range s.ReadinessGates {
		errs = append(errs, v.QualifiedName(string(gate.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	errs = append(errs, checkSchedulingGates(s.SchedulingGates, path.Child("schedulingGates"))...)
	errs = append(errs, c.checkTopologySpread(path.Child("topologySpreadConstraints"))...)
	errs = append(errs, c.checkHostProcess(path)...)
	errs = append(errs, c.checkHostUsers(path)...)
	errs = append(errs, c.checkNames(path)...)
	errs = append(errs, v.Tolerations(s.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, c.checkHostAliases(path.Child("hostAliases"))...)
	errs = append(errs, c.checkPriority(path)...)
	errs = append(errs, c.checkOS(path)...)
	if o.Pod {
		errs = append(errs, c.checkPodOnly(path)...)
	}
	return errs
}

// checkNames checks the fields that name something elsewhere, or the Pod itself on the network.
func (c *checker) checkNames(path *field.Path) field.ErrorList {
	s := c.spec
	var errs field.ErrorList
	if s.ServiceAccountName != "" {
		errs = append(errs, v.Messages(apivalidation.ValidateServiceAccountName(s.ServiceAccountName, false),
			s.ServiceAccountName, path.Child("serviceAccountName"))...)
	}
	if s.NodeName != "" {
		errs = append(errs, v.ObjectName(s.NodeName, path.Child("nodeName"))...)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if s.Hostname != "" {
		errs = append(errs, v.DNSLabel(s.Hostname, path.Child("hostname"))...)
	}
	if s.Subdomain != "" {
		errs = append(errs, v.DNSLabel(s.Subdomain, path.Child("subdomain"))...)
	}
	return append(errs, c.checkHostnameOverride(path)...)
}

// maxHostname is the longest name that the kernel takes, less the terminating zero.
const maxHostname = 64

func (c *checker) checkHostnameOverride(path *field.Path) field.ErrorList {
	if c.spec.HostnameOverride == nil {
		return nil
	}
	name, at := *c.spec.HostnameOverride, path.Child("hostnameOverride")
	errs := v.DNSSubdomain(name, at)
	if len(name) > maxHostname {
		errs = append(errs, field.TooLong(at, name, maxHostname))
	}
	if f := c.spec.SetHostnameAsFQDN; f != nil && *f {
		errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	if c.spec.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	return errs
}

// checkPriority checks what decides who runs first, and in what kind of sandbox at what cost.
func (c *checker) checkPriority(path *field.Path) field.ErrorList {
	s := c.spec
	var errs field.ErrorList
	if s.PriorityClassName != "" {
		errs = append(errs, v.ObjectName(s.PriorityClassName, path.Child("priorityClassName"))...)
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, v.ObjectName(*s.RuntimeClassName, path.Child("runtimeClassName"))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, v.Enum(*s.PreemptionPolicy, path.Child("preemptionPolicy"),
			corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if s.Overhead != nil {
		errs = append(errs, c.checkResources(&corev1.ResourceRequirements{Limits: s.Overhead}, v.ContainerResourceName,
			path.Child("overhead"))...)
	}
	return errs
}

// checkHostNetworkPorts checks that in the host's network a port is the same inside and outside. A template may leave it
// open: it is filled in when the Pod is made.
func (c *checker) checkHostNetworkPorts(path *field.Path) field.ErrorList {
	if !c.spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i := range c.spec.Containers {
		for j, port := range c.spec.Containers[i].Ports {
			if (c.Pod || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"),
					port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// checkPodOnly checks what templates may get away with, because they always could.
func (c *checker) checkPodOnly(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.spec.ServiceAccountName == "" {
		for i := range c.spec.Volumes {
			projected := c.spec.Volumes[i].Projected
			if projected == nil {
				continue
			}
			for j := range projected.Sources {
				if projected.Sources[j].ServiceAccountToken != nil {
					errs = append(errs, field.Forbidden(
						path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	for i := range c.spec.Containers {
		errs = append(errs, checkImageSpace(&c.spec.Containers[i], path.Child("containers").Index(i))...)
	}
	for i := range c.spec.InitContainers {
		errs = append(errs, checkImageSpace(&c.spec.InitContainers[i], path.Child("initContainers").Index(i))...)
	}
	return errs
}

func checkSchedulingGates(gates []corev1.PodSchedulingGate, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, gate := range gates {
		errs = append(errs, v.QualifiedName(gate.Name, path.Index(i))...)
		if seen.Has(gate.Name) {
			errs = append(errs, field.Duplicate(path.Index(i), gate.Name))
		}
		seen.Insert(gate.Name)
	}
	return errs
}

// checkResourceClaims checks the claims of devices that the containers may refer to, and takes down their names.
func (c *checker) checkResourceClaims(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range c.spec.ResourceClaims {
		claim, at := &c.spec.ResourceClaims[i], path.Index(i)
		switch {
		case claim.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case c.claims.Has(claim.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), claim.Name))
		default:
			errs = append(errs, v.DNSLabel(claim.Name, at.Child("name"))...)
			c.claims.Insert(claim.Name)
		}
		name, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		if name != nil && template != nil {
			errs = append(errs, field.Invalid(at, *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if name == nil && template == nil {
			errs = append(errs, field.Invalid(at, *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if name != nil {
			errs = append(errs, v.ObjectName(*name, at.Child("resourceClaimName"))...)
		}
		if template != nil {
			errs = append(errs, v.ObjectName(*template, at.Child("resourceClaimTemplateName"))...)
		}
	}
	return errs
}

// visit calls f for each container of every sort, in the order init containers, containers, ephemeral containers.
func visit(s *corev1.PodSpec, path *field.Path, f func(c *corev1.Container, path *field.Path)) {
	for i := range s.InitContainers {
		f(&s.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		f(&s.Containers[i], path.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}

// Visit calls f for each container of every sort with the path of it below path.
func Visit(s *corev1.PodSpec, path *field.Path, f func(c *corev1.Container, path *field.Path)) {
	visit(s, path, f)
}
