package apiserver

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/resource"
)

// Claims are names that are taken once among all the servers of a cluster.
type Claims interface {
	// Take claims a name and says whether it was free.
	Take(ctx context.Context, name string) (bool, error)
	// Release gives a name back; ReleaseAt does if it is still the claim that List showed with that number.
	Release(ctx context.Context, name string) error
	ReleaseAt(ctx context.Context, name string, number int64) error
	// List returns the names that begin with prefix and are taken, and a number for each that tells the claim from later ones.
	List(ctx context.Context, prefix string) (map[string]int64, error)
}

// allocators hand out cluster IPs and node ports: among several servers if there are claims.
func allocators(ips *ipAllocator, ports utilnet.PortRange, claims Claims) (resource.IPAllocator, resource.PortAllocator) {
	if claims == nil {
		return ips, newPortAllocator(ports)
	}
	return sharedIPs{claimer{claims}, ips}, sharedPorts{claimer{claims}, portRange{ports}}
}

const (
	// claimTimeout bounds what one allocation asks of the others' storage.
	claimTimeout = 5 * time.Second
	// guesses is how often a name is chosen at random before those that are taken are looked up.
	guesses = 8
)

// The names of claims.
const ipClaims, portClaims = "ip/", "port/"

func ipClaim(ip string) string { return ipClaims + ip }

func portClaim(port int32) string { return portClaims + strconv.Itoa(int(port)) }

// claimer takes names for allocators.
type claimer struct{ claims Claims }

// one takes a name; taken is the error if somebody has it.
func (c claimer) one(name string, taken error) error {
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	ok, err := c.claims.Take(ctx, name)
	if err == nil && !ok {
		err = taken
	}
	return err
}

// any takes a name that is free, of the first part that has one, and returns its number. name tells what the numbers are called,
// prefix is what all of them begin with.
func (c claimer) any(prefix string, parts []part, name func(uint64) string, full error) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	for range min(guesses, parts[0].n) {
		number := parts[0].from + rand.Uint64N(parts[0].n)
		if ok, err := c.claims.Take(ctx, name(number)); err != nil || ok {
			return number, err
		}
	}
	taken, err := c.claims.List(ctx, prefix)
	if err != nil {
		return 0, err
	}
	var failed error
	number, found := pick(parts, func(n uint64) bool {
		if _, busy := taken[name(n)]; busy {
			return false
		}
		ok, err := c.claims.Take(ctx, name(n))
		failed = err
		return ok || err != nil
	})
	if failed == nil && !found {
		failed = full
	}
	return number, failed
}

func (c claimer) release(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	if err := c.claims.Release(ctx, name); err != nil {
		klog.Background().Error(err, "Could not give an allocation back; it is mended later", "claim", name)
	}
}

// sharedIPs hands out the addresses of ranges among several servers.
type sharedIPs struct {
	claimer
	*ipAllocator // its ranges; it remembers nothing
}

var _ resource.IPAllocator = sharedIPs{}

func (a sharedIPs) Allocate(family corev1.IPFamily, ip string) (string, error) {
	r := a.of(family)
	if r == nil {
		return "", errNoFamily(family)
	}
	if ip != "" {
		n, err := r.parse(ip)
		if err != nil {
			return "", err
		}
		ip = r.address(n).String()
		return ip, a.one(ipClaim(ip), errIPTaken)
	}
	n, err := a.any(ipClaims, r.parts(), func(n uint64) string { return ipClaim(r.address(n).String()) }, errIPFull)
	if err != nil {
		return "", err
	}
	return r.address(n).String(), nil
}

func (a sharedIPs) Release(ip string) {
	for _, r := range a.ranges {
		if n, err := r.parse(ip); err == nil {
			a.release(ipClaim(r.address(n).String()))
		}
	}
}

// sharedPorts hands out node ports among several servers.
type sharedPorts struct {
	claimer
	portRange
}

var _ resource.PortAllocator = sharedPorts{}

func (a sharedPorts) Allocate(port int32) (int32, error) {
	if port != 0 {
		if err := a.check(port); err != nil {
			return 0, err
		}
		return port, a.one(portClaim(port), errPortTaken)
	}
	n, err := a.any(portClaims, a.parts(), func(n uint64) string { return portClaim(a.at(n)) }, errPortsFull)
	return a.at(n), err
}

func (a sharedPorts) Release(port int32) { a.release(portClaim(port)) }
