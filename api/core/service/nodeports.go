package service

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hostPort is a port that is taken on every node.
type hostPort struct {
	protocol corev1.Protocol
	port     int32
}

// hostPorts lists the distinct ports on the nodes that a Service has, the one for health checks included.
func hostPorts(obj *corev1.Service) []hostPort {
	var list []hostPort
	add := func(p hostPort) {
		if p.port != 0 && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if mayHaveNodePorts(obj) {
		for _, p := range obj.Spec.Ports {
			add(hostPort{p.Protocol, p.NodePort})
		}
	}
	if wantsHealthCheckPort(obj) {
		add(hostPort{corev1.ProtocolTCP, obj.Spec.HealthCheckNodePort})
	}
	return list
}

// takePorts reserves the node ports that obj has or needs beyond those of old (nil on create), and releases those of
// old that obj has no more.
func (r *reservation) takePorts(obj, old *corev1.Service) error {
	var have []hostPort
	if old != nil {
		have = hostPorts(old)
	}
	if mayHaveNodePorts(obj) {
		if err := r.takeNodePorts(obj, have); err != nil {
			return err
		}
	}
	if wantsHealthCheckPort(obj) && (old == nil || !wantsHealthCheckPort(old)) {
		if err := r.takeHealthCheckPort(obj, have); err != nil {
			return err
		}
	}
	keep := hostPorts(obj)
	for _, p := range have {
		if !slices.Contains(keep, p) {
			r.letPort(p)
		}
	}
	return nil
}

// takeNodePorts reserves first what the user names, then any for the rest. Ports that differ in protocol alone, such as
// DNS over TCP and UDP, share a number where possible.
func (r *reservation) takeNodePorts(obj *corev1.Service, have []hostPort) error {
	have = slices.Clone(have)
	list := obj.Spec.Ports
	for i := range list {
		p := hostPort{list[i].Protocol, list[i].NodePort}
		if p.port == 0 || slices.Contains(have, p) {
			continue
		}
		if _, err := r.takePort(p.protocol, p.port); err != nil {
			return invalid(obj, field.ErrorList{field.Invalid(
				field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.port, err.Error())})
		}
		have = append(have, p)
	}
	if !getsNodePorts(obj) {
		return nil
	}
	for i := range list {
		if list[i].NodePort != 0 {
			continue
		}
		port, err := r.takeAny(list[i], list, have)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		list[i].NodePort = port
		have = append(have, hostPort{list[i].Protocol, port})
	}
	return nil
}

// takeAny reserves a port for p, preferably the one that the same port of another protocol has.
func (r *reservation) takeAny(p corev1.ServicePort, list []corev1.ServicePort, have []hostPort) (int32, error) {
	for _, twin := range list {
		if twin.Port != p.Port || twin.NodePort == 0 || slices.Contains(have, hostPort{p.Protocol, twin.NodePort}) {
			continue
		}
		if port, err := r.takePort(p.Protocol, twin.NodePort); err == nil {
			return port, nil
		}
	}
	return r.takePort(p.Protocol, 0)
}

func (r *reservation) takeHealthCheckPort(obj *corev1.Service, have []hostPort) error {
	wanted := obj.Spec.HealthCheckNodePort
	if wanted != 0 && slices.Contains(have, hostPort{corev1.ProtocolTCP, wanted}) {
		return nil
	}
	port, err := r.takePort(corev1.ProtocolTCP, wanted)
	if err != nil && wanted != 0 {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %v", wanted, err))
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %v", wanted, err))
	}
	obj.Spec.HealthCheckNodePort = port
	return nil
}
