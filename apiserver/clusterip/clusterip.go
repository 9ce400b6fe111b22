// Package clusterip hands out the cluster IPs of Services. Whether an address is taken is said by the store alone, where
// there is an IPAddress of that name or not: to take one is to create that object, which succeeds once among all servers
// of a cluster. Where addresses come from are the ServiceCIDRs, read at each allocation. Nothing is remembered here.
//
// An address is taken before its Service is stored and given back after it has gone. Who is killed between the two leaves
// an IPAddress without a Service, which controllers/clusterip deletes.
package clusterip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/internal/draw"
	"github.com/peapod/peapod/internal/serviceip"
)

const (
	// timeout bounds what one allocation asks of the store.
	timeout = 5 * time.Second
	// guesses is how often an address is chosen at random before those that are taken are looked up.
	guesses = 8
)

// The messages of these reach the user through the Service's validation errors.
var (
	errTaken = errors.New("provided IP is already allocated")
	errFull  = errors.New("range is full")
	errRange = errors.New("the provided network does not match the current range")
)

// Allocator hands out cluster IPs.
type Allocator struct {
	defaults []netip.Prefix
	families []corev1.IPFamily
	store    func(schema.GroupResource) *genericregistry.Store
}

var _ resource.IPAllocator = (*Allocator)(nil)

// New returns an allocator of a cluster whose default ServiceCIDR has the ranges defaults, the primary family's first: one,
// or one of each family. Store finds the registries of kinds; it is called when the first address is asked for.
func New(defaults []netip.Prefix, store func(schema.GroupResource) *genericregistry.Store) (*Allocator, error) {
	a := &Allocator{store: store}
	for _, p := range defaults {
		family := serviceip.FamilyOf(p.Addr())
		if slices.Contains(a.families, family) {
			return nil, fmt.Errorf("set up cluster IPs: two ranges of family %s given", family)
		}
		if p.Addr().BitLen()-p.Bits() < 3 {
			return nil, fmt.Errorf("set up cluster IPs: range %s is too small", p)
		}
		a.defaults, a.families = append(a.defaults, p.Masked()), append(a.families, family)
	}
	return a, nil
}

// Families implements resource.IPAllocator.
func (a *Allocator) Families() []corev1.IPFamily { return a.families }

func (a *Allocator) addresses() *genericregistry.Store {
	return a.store(networkingv1.Resource("ipaddresses"))
}

func (a *Allocator) ranges() *genericregistry.Store {
	return a.store(networkingv1.Resource("servicecidrs"))
}

// bounded is the context of what the allocator does by itself. It does not end with the request: half of an allocation is
// worse than one that nobody waits for.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(request.WithNamespace(context.Background(), metav1.NamespaceNone), timeout)
}

// spans are the ranges that addresses of a family come from now: those of the default ServiceCIDR first, then by name.
func (a *Allocator) spans(ctx context.Context, family corev1.IPFamily) ([]span, error) {
	// Resource version 0 is what the server knows, of a cache where it has one: a ServiceCIDR that is deleted stays long
	// enough for all servers to have noticed.
	list, err := a.ranges().List(ctx, &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list service CIDRs: %w", err)
	}
	all, ok := list.(*networkingv1.ServiceCIDRList)
	if !ok {
		return nil, fmt.Errorf("list service CIDRs: got a %T", list)
	}
	var spans []span
	for i := range all.Items {
		c := &all.Items[i]
		if !serviceip.Usable(c) {
			continue
		}
		for _, p := range serviceip.Prefixes(c) {
			switch s := newSpan(p); {
			case serviceip.FamilyOf(p.Addr()) != family:
			case c.Name == serviceip.DefaultCIDR:
				spans = slices.Insert(spans, 0, s)
			default:
				spans = append(spans, s)
			}
		}
	}
	return spans, nil
}

// Allocate implements resource.IPAllocator.
func (a *Allocator) Allocate(want resource.IPClaim) (string, error) {
	ctx, cancel := bounded()
	defer cancel()
	if !slices.Contains(a.families, want.Family) {
		return "", fmt.Errorf("the cluster has no range of family %s", want.Family)
	}
	spans, err := a.spans(ctx, want.Family)
	if err != nil {
		return "", err
	}
	take := func(addr netip.Addr) (bool, error) { return a.take(ctx, addr, want.Owner, want.Dry) }
	if want.IP == "" {
		addr, err := a.any(ctx, spans, take)
		if err != nil {
			return "", err
		}
		return addr.String(), nil
	}
	addr, err := netip.ParseAddr(want.IP)
	if err != nil {
		return "", fmt.Errorf("the provided IP (%s) is not a valid IP", want.IP)
	}
	if !slices.ContainsFunc(spans, func(s span) bool { return serviceip.Contains(s.prefix, addr) }) {
		return "", errRange
	}
	ok, err := take(addr)
	if err == nil && !ok {
		err = errTaken
	}
	if err != nil {
		return "", err
	}
	return addr.String(), nil
}

// take takes an address for a Service and says whether it was free; a dry run only looks.
func (a *Allocator) take(ctx context.Context, addr netip.Addr, owner types.NamespacedName, dry bool) (bool, error) {
	_, err := a.addresses().Get(ctx, addr.String(), &metav1.GetOptions{ResourceVersion: "0"})
	if err == nil {
		return false, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("look for address %s: %w", addr, err)
	}
	if dry {
		return true, nil
	}
	_, err = a.addresses().Create(ctx, serviceip.New(addr, owner), rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take address %s: %w", addr, err)
	}
	return true, nil
}

// any takes a free address of the first range that has one. It costs a few guesses where ranges are sparsely used, a list
// of all addresses otherwise.
func (a *Allocator) any(ctx context.Context, spans []span, take func(netip.Addr) (bool, error)) (netip.Addr, error) {
	var taken map[string]bool
	for _, s := range spans {
		parts := s.parts()
		for range min(guesses, parts[0].N) {
			addr := s.address(parts[0].Any())
			if ok, err := take(addr); ok || err != nil {
				return addr, err
			}
		}
		if taken == nil {
			var err error
			if taken, err = a.taken(ctx); err != nil {
				return netip.Addr{}, err
			}
		}
		var failed error
		number, found := draw.Pick(parts, func(n uint64) bool {
			addr := s.address(n)
			if taken[addr.String()] {
				return false
			}
			ok, err := take(addr)
			failed = err
			return ok || err != nil
		})
		if found {
			return s.address(number), failed
		}
	}
	return netip.Addr{}, errFull
}

// taken are the names of all IPAddresses.
func (a *Allocator) taken(ctx context.Context) (map[string]bool, error) {
	list, err := a.addresses().List(ctx, &internalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all, ok := list.(*networkingv1.IPAddressList)
	if !ok {
		return nil, fmt.Errorf("list addresses: got a %T", list)
	}
	names := make(map[string]bool, len(all.Items))
	for i := range all.Items {
		names[all.Items[i].Name] = true
	}
	return names, nil
}

// errNotOurs says that an address belongs to somebody else.
var errNotOurs = errors.New("the address belongs to something else")

// Release implements resource.IPAllocator.
func (a *Allocator) Release(owner types.NamespacedName, ip string) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return // "None" and the like, which nobody allocated
	}
	ctx, cancel := bounded()
	defer cancel()
	ours := func(_ context.Context, obj runtime.Object) error {
		if held, ok := obj.(*networkingv1.IPAddress); ok && serviceip.Managed(held) {
			if by, ok := serviceip.Owner(held); ok && by == owner {
				return nil
			}
		}
		return errNotOurs
	}
	_, _, err = a.addresses().Delete(ctx, addr.String(), ours, &metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, errNotOurs) {
		klog.Background().Error(err, "Could not give an address back; it is repaired later", "address", addr, "service", owner)
	}
}
