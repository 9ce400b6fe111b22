package framework

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/peapod/peapod/internal/devicetaint"
)

// Devices is what the scheduler knows of devices: slices, which say where some are, rules that taint them, classes, and the claims that
// have them. What was decided for a claim counts as allocated until the API shows it or it is released. It knows nothing before somebody
// needs it.
type Devices struct {
	claims  map[types.NamespacedName]*resourcev1.ResourceClaim
	classes map[string]*resourcev1.DeviceClass
	slices  map[string]*resourcev1.ResourceSlice
	rules   map[string]*resourcev1.DeviceTaintRule
	// sorted are the slices by name, so that equal choices fall the same way, with the taints of rules; nil where that is to be worked out.
	sorted []*resourcev1.ResourceSlice
	// ofResource are the classes by the extended resources that they stand for.
	ofResource map[corev1.ResourceName]*resourcev1.DeviceClass
	// extended are the claims that were made for the extended resources of a Pod, by the Pod.
	extended map[types.UID]*resourcev1.ResourceClaim
	// pending are the claims that are being allocated, as they are going to be.
	pending map[types.UID]pendingClaim

	// Now is when the decision is made, and BindTimeout how long devices may take, after they were allocated, to become ready; whoever
	// asks for a decision sets them.
	Now         time.Time
	BindTimeout time.Duration

	taken taken
	// expressions are compiled once; the compiler, which takes some megabytes, is made at the first allocation.
	expressions *cel.Cache
	// found is what was worked out for one Pod, until anything changes.
	found *Found
}

type pendingClaim struct {
	pod   types.UID
	claim *resourcev1.ResourceClaim
}

// Found are the plans of one Pod by the names of nodes.
type Found struct {
	pod    types.UID
	OnNode map[string]*DevicePlan
}

// DevicePlan is what has to be written so that a Pod has its devices on a node.
type DevicePlan struct {
	// Claims are all of the Pod, the one for extended resources last.
	Claims []PlannedClaim
	// Mappings say which request of the claim for extended resources each container has.
	Mappings []corev1.ContainerExtendedResourceRequest
}

// PlannedClaim is a claim of a Pod.
type PlannedClaim struct {
	// Claim is as the decision found it; Allocation is what it is to get, nil if it has one.
	Claim      *resourcev1.ResourceClaim
	Allocation *resourcev1.AllocationResult
	// Extended is true for the claim for extended resources, which is still to be made.
	Extended bool
}

// NewDevices returns one that knows nothing.
func NewDevices() *Devices {
	return &Devices{
		claims: map[types.NamespacedName]*resourcev1.ResourceClaim{}, classes: map[string]*resourcev1.DeviceClass{},
		slices: map[string]*resourcev1.ResourceSlice{}, rules: map[string]*resourcev1.DeviceTaintRule{}, ofResource: map[corev1.ResourceName]*resourcev1.DeviceClass{},
		extended: map[types.UID]*resourcev1.ResourceClaim{}, pending: map[types.UID]pendingClaim{},
	}
}

// MayNeedDevices says whether the Pod names claims, or requests extended resources, for which a class may stand.
func (p *Pod) MayNeedDevices() bool {
	if len(p.Spec.ResourceClaims) > 0 {
		return true
	}
	for name, amount := range p.Requests.Extended {
		if amount > 0 && MayBeDevice(name) {
			return true
		}
	}
	return false
}

// MayBeDevice says whether a class may stand for the resource: where it is an extended one, that is of a domain other than Kubernetes'
// own, or where its name is made of that of a class.
func MayBeDevice(resource corev1.ResourceName) bool {
	name := string(resource)
	return strings.HasPrefix(name, resourcev1.ResourceDeviceClassPrefix) ||
		strings.Contains(name, "/") && !strings.Contains(name, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix)
}

// ClaimKey names a claim.
func ClaimKey(c *resourcev1.ResourceClaim) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// Claim returns a claim as the API has it, nil if there is none.
func (d *Devices) Claim(key types.NamespacedName) *resourcev1.ResourceClaim { return d.claims[key] }

// ExtendedClaim returns the claim that was made for the Pod's extended resources, nil if there is none.
func (d *Devices) ExtendedClaim(pod types.UID) *resourcev1.ResourceClaim { return d.extended[pod] }

// ClassOf returns the class that stands for an extended resource, nil if none does.
func (d *Devices) ClassOf(resource corev1.ResourceName) *resourcev1.DeviceClass {
	return d.ofResource[resource]
}

// Class returns a class, nil if there is none.
func (d *Devices) Class(name string) *resourcev1.DeviceClass { return d.classes[name] }

// Pending says whether the claim is being allocated.
func (d *Devices) Pending(claim types.UID) bool {
	_, ok := d.pending[claim]
	return ok
}

// SetClaim takes in a claim that appeared or changed, unless something newer is known of it. An allocation that it shows is pending no
// more.
func (d *Devices) SetClaim(c *resourcev1.ResourceClaim) {
	old := d.claims[ClaimKey(c)]
	if old != nil && old.UID == c.UID && newer(old, c) {
		return
	}
	d.found = nil
	if old != nil {
		d.drop(old)
	}
	d.claims[ClaimKey(c)] = c
	if pod := extendedFor(c); pod != "" {
		d.extended[pod] = c
	}
	if c.Status.Allocation != nil {
		d.Release(c.UID)
		d.taken.count(c, 1)
	}
}

// Wrote takes in what the API has answered to a write, which may come before or after its event. A claim that is not known stays so: it
// has gone, or its event is still to come.
func (d *Devices) Wrote(c *resourcev1.ResourceClaim) {
	if old := d.claims[ClaimKey(c)]; old != nil && old.UID == c.UID {
		d.SetClaim(c)
	}
}

// RemoveClaim takes in that a claim has gone.
func (d *Devices) RemoveClaim(c *resourcev1.ResourceClaim) {
	d.Release(c.UID) // whoever allocates it will find it gone
	if old := d.claims[ClaimKey(c)]; old != nil && old.UID == c.UID {
		d.found = nil
		d.drop(old)
		delete(d.claims, ClaimKey(c))
	}
}

// drop forgets what c has.
func (d *Devices) drop(c *resourcev1.ResourceClaim) {
	d.taken.count(c, -1)
	if pod := extendedFor(c); pod != "" && d.extended[pod] != nil && d.extended[pod].UID == c.UID {
		delete(d.extended, pod)
	}
}

// newer says whether a is newer than b.
func newer(a, b *resourcev1.ResourceClaim) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order > 0
}

// extendedFor returns the Pod whose extended resources the claim is for, empty for any other claim.
func extendedFor(c *resourcev1.ResourceClaim) types.UID {
	if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return ""
	}
	for _, o := range c.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			return o.UID
		}
	}
	return ""
}

// SetClass takes in a class that appeared or changed.
func (d *Devices) SetClass(c *resourcev1.DeviceClass) {
	d.classes[c.Name] = c
	d.classesChanged()
}

// RemoveClass takes in that a class has gone.
func (d *Devices) RemoveClass(c *resourcev1.DeviceClass) {
	delete(d.classes, c.Name)
	d.classesChanged()
}

// classesChanged works out which class stands for which extended resource: of several, the youngest does, and of those the first by
// name. It costs a look at each class, of which there are few.
func (d *Devices) classesChanged() {
	d.found = nil
	clear(d.ofResource)
	for _, c := range slices.SortedFunc(maps.Values(d.classes), func(a, b *resourcev1.DeviceClass) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	}) {
		d.ofResource[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+c.Name)] = c
		if name := c.Spec.ExtendedResourceName; name != nil && d.ofResource[corev1.ResourceName(*name)] == nil {
			d.ofResource[corev1.ResourceName(*name)] = c
		}
	}
}

// SetSlice takes in a slice that appeared or changed.
func (d *Devices) SetSlice(s *resourcev1.ResourceSlice) {
	d.slices[s.Name], d.sorted, d.found = s, nil, nil
}

// RemoveSlice takes in that a slice has gone.
func (d *Devices) RemoveSlice(s *resourcev1.ResourceSlice) {
	delete(d.slices, s.Name)
	d.sorted, d.found = nil, nil
}

// SetRule takes in a rule that appeared or changed.
func (d *Devices) SetRule(r *resourcev1.DeviceTaintRule) {
	d.rules[r.Name], d.sorted, d.found = r, nil, nil
}

// RemoveRule takes in that a rule has gone.
func (d *Devices) RemoveRule(r *resourcev1.DeviceTaintRule) {
	delete(d.rules, r.Name)
	d.sorted, d.found = nil, nil
}

// Assume counts the claims of the Pod's plan as allocated.
func (d *Devices) Assume(pod types.UID, plan *DevicePlan) {
	d.found = nil // the plan is its binding's from now on
	for _, c := range plan.Claims {
		if c.Allocation != nil {
			d.assume(pod, c.Claim, c.Allocation)
		}
	}
}

func (d *Devices) assume(pod types.UID, claim *resourcev1.ResourceClaim, allocation *resourcev1.AllocationResult) {
	assumed := *claim
	assumed.Status.Allocation = allocation
	d.Release(assumed.UID)
	d.pending[assumed.UID] = pendingClaim{pod, &assumed}
	d.taken.count(&assumed, 1)
}

// Made takes in that a claim of the Pod, which was assumed before it was there, has been made.
func (d *Devices) Made(pod types.UID, planned, made *resourcev1.ResourceClaim) {
	if p, ok := d.pending[planned.UID]; ok {
		d.Release(planned.UID)
		d.assume(pod, made, p.claim.Status.Allocation)
	}
}

// Release ends what was assumed of a claim, if anything was.
func (d *Devices) Release(claim types.UID) {
	if p, ok := d.pending[claim]; ok {
		d.found = nil
		delete(d.pending, claim)
		d.taken.count(p.claim, -1)
	}
}

// ReleasePod ends what was assumed for a Pod, and returns the claims as they were going to be. It costs a look at each claim that is
// being allocated.
func (d *Devices) ReleasePod(pod types.UID) []*resourcev1.ResourceClaim {
	var out []*resourcev1.ResourceClaim
	for _, p := range d.pending {
		if p.pod == pod {
			out = append(out, p.claim)
			d.Release(p.claim.UID)
		}
	}
	return out
}

// Search forgets what was found before, and returns where that for the Pod is to be kept until anything changes.
func (d *Devices) Search(pod types.UID) *Found {
	d.found = &Found{pod: pod, OnNode: map[string]*DevicePlan{}}
	return d.found
}

// Found is the plan for the Pod on the node, nil where none was made since the last change.
func (d *Devices) Found(pod types.UID, node string) *DevicePlan {
	if d.found == nil || d.found.pod != pod {
		return nil
	}
	return d.found.OnNode[node]
}

// celExpressions is how many compiled expressions are kept; upstream's.
const celExpressions = 10

// Allocator returns what chooses devices, as things are now: it must not be used after the next change.
func (d *Devices) Allocator(ctx context.Context) (structured.Allocator, error) {
	if d.expressions == nil {
		// The library keeps one compiler, by its features: these are those with which expressions are validated.
		d.expressions = cel.NewCache(celExpressions, cel.Features{EnableConsumableCapacity: true})
	}
	if d.sorted == nil {
		d.sorted = slices.SortedFunc(maps.Values(d.slices), func(a, b *resourcev1.ResourceSlice) int { return cmp.Compare(a.Name, b.Name) })
		if rules := slices.Collect(maps.Values(d.rules)); len(rules) > 0 {
			for i, s := range d.sorted {
				d.sorted[i] = devicetaint.Apply(s, rules)
			}
		}
	}
	features := structured.Features{
		AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, DeviceBindingAndStatus: true, ConsumableCapacity: true,
	}
	return structured.NewAllocator(ctx, features, d.taken.state(), lister{d}, d.sorted, d.expressions)
}

// lister shows the classes to the allocator.
type lister struct{ devices *Devices }

var _ structured.DeviceClassLister = lister{}

func (l lister) List() ([]*resourcev1.DeviceClass, error) {
	return slices.Collect(maps.Values(l.devices.classes)), nil
}

func (l lister) Get(name string) (*resourcev1.DeviceClass, error) {
	if c := l.devices.classes[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}

// taken are the devices that claims have. The zero value has none.
type taken struct {
	// devices and shares have how many claims have each one: others than the scheduler may give one twice.
	devices map[structured.DeviceID]int
	shares  map[structured.SharedDeviceID]int
	// all is the same for the allocator, which only reads it.
	all structured.AllocatedState
}

// state is for the allocator, until the next change.
func (t *taken) state() structured.AllocatedState {
	if t.devices == nil {
		t.devices, t.shares = map[structured.DeviceID]int{}, map[structured.SharedDeviceID]int{}
		t.all = structured.AllocatedState{AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
			AggregatedCapacity: structured.NewConsumedCapacityCollection()}
	}
	return t.all
}

// count takes in that the claim has its devices (1), or no longer (-1). What administrators look at is not taken.
func (t *taken) count(c *resourcev1.ResourceClaim, sign int) {
	if c.Status.Allocation == nil {
		return
	}
	t.state()
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			tally(t.devices, t.all.AllocatedDevices, id, sign)
			continue
		}
		tally(t.shares, t.all.AllocatedSharedDeviceIDs, structured.MakeSharedDeviceID(id, r.ShareID), sign)
		if r.ConsumedCapacity == nil {
			continue
		}
		if used := structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity); sign > 0 {
			t.all.AggregatedCapacity.Insert(used)
		} else {
			t.all.AggregatedCapacity.Remove(used)
		}
	}
}

// tally adds sign to what is counted of key; set has the keys of which any is.
func tally[K comparable](counts map[K]int, set sets.Set[K], key K, sign int) {
	if counts[key] += sign; counts[key] > 0 {
		set.Insert(key)
		return
	}
	delete(counts, key)
	set.Delete(key)
}
