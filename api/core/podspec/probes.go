package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// checkLifecycleAndProbes checks what containers that stay may have: hooks and probes.
func (c *checker) checkLifecycleAndProbes(ctr *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if l := ctr.Lifecycle; l != nil {
		at := path.Child("lifecycle")
		if l.PostStart != nil {
			errs = append(errs, c.checkHandler(hook(l.PostStart), at.Child("postStart"))...)
		}
		if l.PreStop != nil {
			errs = append(errs, c.checkHandler(hook(l.PreStop), at.Child("preStop"))...)
		}
	}
	const one = "must be 1"
	if p := ctr.LivenessProbe; p != nil {
		at := path.Child("livenessProbe")
		errs = append(errs, c.checkProbe(p, at)...)
		if p.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, one))
		}
	}
	if p := ctr.ReadinessProbe; p != nil {
		at := path.Child("readinessProbe")
		errs = append(errs, c.checkProbe(p, at)...)
		if p.TerminationGracePeriodSeconds != nil {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds,
				"must not be set for readinessProbes"))
		}
	}
	if p := ctr.StartupProbe; p != nil {
		at := path.Child("startupProbe")
		errs = append(errs, c.checkProbe(p, at)...)
		if p.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, one))
		}
	}
	return errs
}

func (c *checker) checkProbe(p *corev1.Probe, path *field.Path) field.ErrorList {
	errs := c.checkHandler(handler{exec: p.Exec, httpGet: p.HTTPGet, tcpSocket: p.TCPSocket, grpc: p.GRPC}, path)
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds},
		{"timeoutSeconds", p.TimeoutSeconds},
		{"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold},
		{"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, v.NonNegativeInteger(int64(n.value), path.Child(n.name))...)
	}
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0"))
	}
	return errs
}

// handler is what probes and hooks have in common: exactly one thing to do.
type handler struct {
	exec      *corev1.ExecAction
	httpGet   *corev1.HTTPGetAction
	tcpSocket *corev1.TCPSocketAction
	grpc      *corev1.GRPCAction
	sleep     *corev1.SleepAction
}

func hook(h *corev1.LifecycleHandler) handler {
	return handler{exec: h.Exec, httpGet: h.HTTPGet, tcpSocket: h.TCPSocket, sleep: h.Sleep}
}

// checkHandler checks the first action of h; any further one is forbidden, and not looked at.
func (c *checker) checkHandler(h handler, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	action := func(name string, set bool, check func(at *field.Path) field.ErrorList) {
		if !set {
			return
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, check(path.Child(name))...)
	}
	action("exec", h.exec != nil, func(at *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	action("httpGet", h.httpGet != nil, func(at *field.Path) field.ErrorList { return checkHTTPGet(h.httpGet, at) })
	action("tcpSocket", h.tcpSocket != nil, func(at *field.Path) field.ErrorList {
		return v.PortNumberOrName(h.tcpSocket.Port, at.Child("port"))
	})
	action("grpc", h.grpc != nil, func(at *field.Path) field.ErrorList {
		return v.PortNumberOrName(intstr.FromInt32(h.grpc.Port), at.Child("port"))
	})
	action("sleep", h.sleep != nil, func(at *field.Path) field.ErrorList { return c.checkSleep(h.sleep.Seconds, at) })
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func checkHTTPGet(a *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	errs := v.Required(a.Path, path.Child("path"))
	errs = append(errs, v.PortNumberOrName(a.Port, path.Child("port"))...)
	errs = append(errs, v.Supported(a.Scheme, path.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range a.HTTPHeaders {
		errs = append(errs, v.Messages(validation.IsHTTPHeaderName(h.Name), h.Name, path.Child("httpHeaders"))...)
	}
	return errs
}

// checkSleep checks that a hook does not sleep longer than the Pod has. A missing period is an error elsewhere.
func (c *checker) checkSleep(seconds int64, path *field.Path) field.ErrorList {
	grace := c.spec.TerminationGracePeriodSeconds
	if grace == nil || (seconds >= 0 && seconds <= *grace) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, seconds,
		fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
}
