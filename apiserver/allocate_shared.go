package apiserver

import (
	"context"
	"strconv"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/internal/draw"
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

// allocator hands out node ports: among several servers if there are claims.
func allocator(ports utilnet.PortRange, claims Claims) resource.PortAllocator {
	if claims == nil {
		return newPortAllocator(ports)
	}
	return sharedPorts{claimer{claims}, portRange{ports}}
}

const (
	// claimTimeout bounds what one allocation asks of the others' storage.
	claimTimeout = 5 * time.Second
	// guesses is how often a name is chosen at random before those that are taken are looked up.
	guesses = 8
)

// portClaims is what the names of claims begin with.
const portClaims = "port/"

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
func (c claimer) any(prefix string, parts []draw.Part, name func(uint64) string, full error) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), claimTimeout)
	defer cancel()
	for range min(guesses, parts[0].N) {
		number := parts[0].Any()
		if ok, err := c.claims.Take(ctx, name(number)); err != nil || ok {
			return number, err
		}
	}
	taken, err := c.claims.List(ctx, prefix)
	if err != nil {
		return 0, err
	}
	var failed error
	number, found := draw.Pick(parts, func(n uint64) bool {
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
