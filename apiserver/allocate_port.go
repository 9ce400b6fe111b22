package apiserver

import (
	"errors"
	"fmt"
	"sync"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/internal/draw"
)

// portAllocator hands out node ports, each number once, whatever the protocol.
type portAllocator struct {
	portRange
	mu    sync.Mutex
	taken map[int32]struct{}
}

var _ resource.PortAllocator = (*portAllocator)(nil)

func newPortAllocator(ports utilnet.PortRange) *portAllocator {
	return &portAllocator{portRange: portRange{ports}, taken: map[int32]struct{}{}}
}

// portRange are the ports that may be handed out. Their numbers for parts begin with 0.
type portRange struct{ utilnet.PortRange }

func (r portRange) at(number uint64) int32 { return int32(r.Base) + int32(number) }

// parts are the ports in the order in which they are handed out: the lower ones, which are kept for those who ask for one by
// number, last (KEP-3668).
func (r portRange) parts() []draw.Part {
	kept := 0
	if r.Size > 16 {
		kept = min(max(16, r.Size/32), 128)
	}
	return draw.KeptLast(0, uint64(kept), uint64(r.Size))
}

var (
	errPortTaken = errors.New("provided port is already allocated")
	errPortsFull = errors.New("range is full")
)

func (r portRange) check(port int32) error {
	if !r.Contains(int(port)) {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", r.String())
	}
	return nil
}

func (a *portAllocator) Allocate(port int32) (int32, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	free := func(port int32) bool {
		_, taken := a.taken[port]
		return !taken
	}
	if port == 0 {
		number, found := draw.Pick(a.parts(), func(n uint64) bool { return free(a.at(n)) })
		if !found {
			return 0, errPortsFull
		}
		port = a.at(number)
	} else if err := a.check(port); err != nil {
		return 0, err
	} else if !free(port) {
		return 0, errPortTaken
	}
	a.taken[port] = struct{}{}
	return port, nil
}

func (a *portAllocator) Release(port int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taken, port)
}
