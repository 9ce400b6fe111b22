package apiserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/peapod/peapod/api/resource"
)

// portAllocator hands out node ports, each once for each protocol. Any free one is free in every protocol, so that it
// can be used for the next port of the same Service too. Upstream gives a number to one Service only, whatever the protocol;
// here another Service may ask for it by number in another protocol.
type portAllocator struct {
	ports utilnet.PortRange
	mu    sync.Mutex
	taken map[int32]map[corev1.Protocol]struct{}
}

var _ resource.PortAllocator = (*portAllocator)(nil)

func newPortAllocator(ports utilnet.PortRange) *portAllocator {
	return &portAllocator{ports: ports, taken: map[int32]map[corev1.Protocol]struct{}{}}
}

var (
	errPortTaken = errors.New("provided port is already allocated")
	errPortsFull = errors.New("range is full")
)

func (a *portAllocator) Allocate(protocol corev1.Protocol, port int32) (int32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if port != 0 {
		if !a.ports.Contains(int(port)) {
			return 0, errPortOutside(a.ports)
		}
		if _, ok := a.taken[port][protocol]; ok {
			return 0, errPortTaken
		}
		a.take(protocol, port)
		return port, nil
	}
	start := rand.IntN(a.ports.Size)
	for i := range a.ports.Size {
		port := int32(a.ports.Base + (start+i)%a.ports.Size)
		if len(a.taken[port]) == 0 {
			a.take(protocol, port)
			return port, nil
		}
	}
	return 0, errPortsFull
}

func errPortOutside(ports utilnet.PortRange) error {
	return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", ports.String())
}

func (a *portAllocator) take(protocol corev1.Protocol, port int32) {
	if a.taken[port] == nil {
		a.taken[port] = map[corev1.Protocol]struct{}{}
	}
	a.taken[port][protocol] = struct{}{}
}

func (a *portAllocator) Release(protocol corev1.Protocol, port int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taken[port], protocol)
	if len(a.taken[port]) == 0 {
		delete(a.taken, port)
	}
}
