package podspec

import (
	"reflect"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// DefaultTemplate fills in what the user left out of a Pod template.
func DefaultTemplate(t *corev1.PodTemplateSpec) { DefaultSpec(&t.Spec) }

// DefaultSpec fills in what the user left out of a PodSpec, wherever it stands. What is filled in for Pods alone, and
// not for templates, is DefaultPod's.
func DefaultSpec(s *corev1.PodSpec) {
	setIfZero(&s.DNSPolicy, corev1.DNSClusterFirst)
	setIfZero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	setIfZero(&s.SchedulerName, corev1.DefaultSchedulerName)
	setIfNil(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	setIfNil(&s.SecurityContext, corev1.PodSecurityContext{})
	defaultServiceAccount(s)
	for i := range s.Volumes {
		DefaultVolume(&s.Volumes[i])
	}
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		defaultContainer((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	if s.Resources != nil {
		defaultQuantities(s.Resources.Limits)
		defaultQuantities(s.Resources.Requests)
	}
	defaultQuantities(s.Overhead)
}

// defaultServiceAccount keeps spec.serviceAccount, the name that came first, equal to spec.serviceAccountName.
func defaultServiceAccount(s *corev1.PodSpec) {
	if s.ServiceAccountName == "" {
		s.ServiceAccountName = s.DeprecatedServiceAccount
	}
	s.DeprecatedServiceAccount = s.ServiceAccountName
}

// defaultHostPorts makes every port of a Pod in the host's network a port of the host.
func defaultHostPorts(s *corev1.PodSpec) {
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			for j := range containers[i].Ports {
				setIfZero(&containers[i].Ports[j].HostPort, containers[i].Ports[j].ContainerPort)
			}
		}
	}
}

func defaultContainer(c *corev1.Container) {
	setIfZero(&c.ImagePullPolicy, pullPolicy(c.Image))
	setIfZero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setIfZero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setIfZero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				setIfNil(&from.FileKeyRef.Optional, false)
			}
		}
	}
	defaultQuantities(c.Resources.Limits)
	defaultQuantities(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

// pullPolicy is Always for an image of the tag latest, named or implied, and IfNotPresent for all others, those whose
// reference is malformed among them.
func pullPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := named.(reference.Tagged); ok && tagged.Tag() != "latest" {
		return corev1.PullIfNotPresent
	}
	_, isTagged := named.(reference.Tagged)
	if _, isDigested := named.(reference.Digested); isDigested && !isTagged {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

func defaultProbe(p *corev1.Probe) {
	setIfZero(&p.TimeoutSeconds, 1)
	setIfZero(&p.PeriodSeconds, 10)
	setIfZero(&p.SuccessThreshold, 1)
	setIfZero(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		setIfNil(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(a *corev1.HTTPGetAction) {
	if a != nil {
		setIfZero(&a.Path, "/")
		setIfZero(&a.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultFieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil {
		setIfZero(&f.APIVersion, "v1")
	}
}

// defaultQuantities rounds quantities up to thousandths, the finest the API keeps.
func defaultQuantities(l corev1.ResourceList) {
	for name, q := range l {
		if q.RoundUp(-3) {
			// Unchanged: storing it again would only lose its cached text.
			continue
		}
		l[name] = q
	}
}

// noSource says whether no kind of volume is chosen.
func noSource(s *corev1.VolumeSource) bool {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			return false
		}
	}
	return true
}

func setIfZero[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

func setIfNil[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}
