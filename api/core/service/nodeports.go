package service

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hostPorts lists the numbers of the ports on the nodes that a Service has, the one for health checks included, each once.
func hostPorts(obj *corev1.Service) []int32 {
	var list []int32
	if mayHaveNodePorts(obj) {
		for _, p := range obj.Spec.Ports {
			list = append(list, p.NodePort)
		}
	}
	if wantsHealthCheckPort(obj) {
		list = append(list, obj.Spec.HealthCheckNodePort)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(port int32) bool { return port == 0 })
}

// takePorts reserves the node ports that obj has or needs beyond those of old (nil on create), and releases those of
// old that obj has no more.
func (r *reservation) takePorts(obj, old *corev1.Service) error {
	var have []int32
	if old != nil {
		have = hostPorts(old)
	}
	if mayHaveNodePorts(obj) {
		take := r.newNodePorts
		if old != nil {
			take = func(obj *corev1.Service) error { return r.changeNodePorts(obj, have) }
		}
		if err := take(obj); err != nil {
			return err
		}
	}
	if wantsHealthCheckPort(obj) && (old == nil || !wantsHealthCheckPort(old)) {
		if err := r.takeHealthCheckPort(obj, have); err != nil {
			return err
		}
	}
	keep := hostPorts(obj)
	for _, port := range have {
		if !slices.Contains(keep, port) {
			r.letPort(port)
		}
	}
	return nil
}

// newNodePorts gives a new Service its node ports. Ports that differ in protocol alone, such as DNS over TCP and UDP, get one
// number: the one that the user names for either, else any. Beyond that a number is given once.
func (r *reservation) newNodePorts(obj *corev1.Service) error {
	list := obj.Spec.Ports
	given := map[int32]int32{} // by port
	for i := range list {
		p := &list[i]
		if p.NodePort == 0 && !getsNodePorts(obj) {
			continue
		}
		number, twin := given[p.Port]
		switch {
		case !twin:
			wanted := p.NodePort
			if wanted == 0 {
				wanted = namedFor(p.Port, list)
			}
			if err := r.takeNodePort(obj, i, wanted); err != nil {
				return err
			}
			given[p.Port] = p.NodePort
		case p.NodePort == 0:
			p.NodePort = number
		case p.NodePort != number:
			if err := r.takeNodePort(obj, i, p.NodePort); err != nil {
				return err
			}
		}
	}
	return nil
}

// namedFor is the node port that the user names for a port, in whatever protocol; 0 if none.
func namedFor(port int32, list []corev1.ServicePort) int32 {
	for i := range list {
		if list[i].Port == port && list[i].NodePort != 0 {
			return list[i].NodePort
		}
	}
	return 0
}

// changeNodePorts gives a Service that has had the numbers have what it lacks. Numbers that it has, or has just been given, may
// be named again.
func (r *reservation) changeNodePorts(obj *corev1.Service, have []int32) error {
	have = slices.Clone(have)
	for i := range obj.Spec.Ports {
		p := &obj.Spec.Ports[i]
		if p.NodePort == 0 && !getsNodePorts(obj) || p.NodePort != 0 && slices.Contains(have, p.NodePort) {
			continue
		}
		if err := r.takeNodePort(obj, i, p.NodePort); err != nil {
			return err
		}
		have = append(have, p.NodePort)
	}
	return nil
}

// takeNodePort gives the i-th port of a Service that number, or any if it is 0.
func (r *reservation) takeNodePort(obj *corev1.Service, i int, wanted int32) error {
	got, err := r.takePort(wanted)
	if err != nil && wanted != 0 {
		return invalid(obj, field.ErrorList{field.Invalid(
			field.NewPath("spec", "ports").Index(i).Child("nodePort"), wanted, err.Error())})
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	obj.Spec.Ports[i].NodePort = got
	return nil
}

func (r *reservation) takeHealthCheckPort(obj *corev1.Service, have []int32) error {
	wanted := obj.Spec.HealthCheckNodePort
	if wanted != 0 && slices.Contains(have, wanted) {
		return nil
	}
	port, err := r.takePort(wanted)
	if err != nil && wanted != 0 {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %v", wanted, err))
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %v", wanted, err))
	}
	obj.Spec.HealthCheckNodePort = port
	return nil
}
