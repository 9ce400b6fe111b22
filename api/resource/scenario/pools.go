package scenario

import (
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	netutils "k8s.io/utils/net"

	"github.com/peapod/peapod/api/resource"
)

// pools hands out addresses and ports from 1 up, so that scenarios are repeatable: 10.0.0.n, fd00::n and 30000+n.
type pools struct {
	families []corev1.IPFamily
	taken    map[string]bool
	// strays are what was given back without having been taken.
	strays []string
}

func newPools(families []corev1.IPFamily) *pools {
	return &pools{families: families, taken: map[string]bool{}}
}

// Families implements resource.IPAllocator.
func (p *pools) Families() []corev1.IPFamily { return p.families }

// Allocate implements resource.IPAllocator.
func (p *pools) Allocate(want resource.IPClaim) (ip string, err error) {
	if ip = want.IP; ip != "" {
		if netutils.IsIPv6String(ip) != (want.Family == corev1.IPv6Protocol) {
			return "", fmt.Errorf("%s is not of family %s", ip, want.Family)
		}
		err = p.take(ip, "provided IP is already allocated")
	} else {
		format := "10.0.0.%d"
		if want.Family == corev1.IPv6Protocol {
			format = "fd00::%x"
		}
		ip, err = p.any(format)
	}
	if err == nil && want.Dry {
		p.give(ip)
	}
	return ip, err
}

// Hold implements resource.IPAllocator: nothing is stored when a scenario begins.
func (p *pools) Hold(types.NamespacedName, string) error { return nil }

// Release implements resource.IPAllocator.
func (p *pools) Release(_ types.NamespacedName, ip string) { p.give(ip) }

func (p *pools) give(key string) {
	if !p.taken[key] {
		p.strays = append(p.strays, key)
	}
	delete(p.taken, key)
}

func (p *pools) any(format string) (string, error) {
	for n := 1; n < 255; n++ {
		if key := fmt.Sprintf(format, n); p.take(key, "taken") == nil {
			return key, nil
		}
	}
	return "", errors.New("range is full")
}

func (p *pools) take(key, why string) error {
	if p.taken[key] {
		return errors.New(why)
	}
	p.taken[key] = true
	return nil
}

// check says whether exactly that is taken which obj gives back when it is deleted.
func (p *pools) check(d *resource.Declaration, env resource.Env, obj resource.Object) error {
	before := maps.Clone(p.taken)
	d.Behaviour.Released(env, obj)
	left := maps.Clone(p.taken)
	p.taken = before
	if len(left) > 0 || len(p.strays) > 0 {
		return fmt.Errorf("allocated and not given back: %v; given back and not allocated: %v", left, p.strays)
	}
	return nil
}

// ports hands out node ports from the same pools.
type ports pools

func portKey(port int32) string { return fmt.Sprint("port/", port) }

// Allocate implements resource.PortAllocator.
func (p *ports) Allocate(port int32) (int32, error) {
	if port != 0 {
		return port, (*pools)(p).take(portKey(port), "provided port is already allocated")
	}
	for port = 30001; port < 30100; port++ {
		if (*pools)(p).take(portKey(port), "taken") == nil {
			return port, nil
		}
	}
	return 0, errors.New("range is full")
}

// Release implements resource.PortAllocator.
func (p *ports) Release(port int32) {
	(*pools)(p).give(portKey(port))
}
