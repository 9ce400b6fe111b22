package dra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
)

// wanted is a claim that a Pod names.
type wanted struct {
	name types.NamespacedName
	// own says that the claim must have been made for the Pod.
	own bool
}

// wants are the claims that a Pod names, in its order, the one for its extended resources last. It is an error if one is not made yet.
func wants(p *v1.Pod) ([]wanted, error) {
	var list []wanted
	for i := range p.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name != nil { // else none is needed
			list = append(list, wanted{types.NamespacedName{Namespace: p.Namespace, Name: *name}, own})
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		list = append(list, wanted{name: types.NamespacedName{Namespace: p.Namespace, Name: s.ResourceClaimName}})
	}
	return list, nil
}

// Prepare has drivers prepare the claims of a Pod, and returns when all are prepared. Idempotent: after an error it is called again, at
// the latest when a *pod.RetryError says that there is reason. Release undoes it, whatever it has come to.
func (m *Manager) Prepare(ctx context.Context, p *v1.Pod) error {
	begin := time.Now()
	asked, err := m.prepare(ctx, p)
	if asked {
		operated("PrepareResources", begin, err)
	}
	if err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

// prepare says too whether there was something to do.
func (m *Manager) prepare(ctx context.Context, p *v1.Pod) (asked bool, err error) {
	list, err := wants(p)
	if err != nil || len(list) == 0 {
		return err != nil, err
	}
	if err := m.load(); err != nil {
		return true, err
	}
	// Before anything is written down it is checked that it can be done: what is written down can only be undone with the drivers'
	// help, and a Pod that names a driver which was never here is to be deleted without.
	fresh := map[types.NamespacedName]*record{}
	var names []types.NamespacedName
	for _, w := range list {
		if fresh[w.name], err = m.allocated(ctx, p, w); err != nil {
			return true, err
		}
		for name := range fresh[w.name].Drivers {
			if _, _, err := m.driver(name); err != nil {
				return true, err
			}
		}
		names = append(names, w.name)
	}
	claims, give, err := m.take(ctx, names)
	if err != nil {
		return true, err
	}
	defer give()
	todo, err := m.begin(p.UID, claims, fresh)
	if err != nil {
		return true, err
	}
	return true, m.askPrepare(ctx, todo)
}

// allocated reads a claim and returns what is to be written down of it, unless the Pod may not use it here.
func (m *Manager) allocated(ctx context.Context, p *v1.Pod, w wanted) (*record, error) {
	c, err := m.cfg.Client.ResourceV1().ResourceClaims(w.name.Namespace).Get(ctx, w.name.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetch ResourceClaim %s: %w", w.name.Name, err)
	}
	if w.own {
		if err := resourceclaim.IsForPod(p, c, false); err != nil {
			return nil, err
		}
	}
	if !resourceclaim.IsReservedForPod(p, c, false) {
		return nil, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", p.Name, p.UID, c.Name, c.UID)
	}
	if c.Status.Allocation == nil {
		return nil, fmt.Errorf("ResourceClaim %s: not allocated", c.Name)
	}
	if err := m.here(c.Status.Allocation); err != nil {
		return nil, fmt.Errorf("ResourceClaim %s: %w", c.Name, err)
	}
	r := &record{Namespace: c.Namespace, Claim: c.Name, UID: c.UID, Pods: []types.UID{p.UID}, Drivers: map[string][]device{}}
	for _, d := range c.Status.Allocation.Devices.Results {
		r.Drivers[d.Driver] = nil
	}
	return r, nil
}

// here is an error if what is allocated cannot be had on this node.
func (m *Manager) here(a *resourcev1.AllocationResult) error {
	if a.NodeSelector == nil {
		return nil
	}
	node, err := m.cfg.Node()
	if err != nil {
		return err
	}
	selector, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
	if err != nil {
		return fmt.Errorf("read the node selector of the allocation: %w", err)
	}
	if !selector.Match(node) {
		return fmt.Errorf("what is allocated is not on node %s", node.Name)
	}
	return nil
}

// begin writes down that a Pod has the claims, and returns those that are to be prepared. Pods that share one have it prepared once.
func (m *Manager) begin(uid types.UID, claims []*claim, fresh map[types.NamespacedName]*record) (todo []*claim, err error) {
	for _, c := range claims {
		m.mu.Lock()
		r, prepared := c.record, c.prepared
		m.mu.Unlock()
		switch n := fresh[c.name]; {
		case r == nil:
			r = n
		case r.UID != n.UID:
			return nil, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", r.Claim, r.UID)
		}
		if err := m.set(c, r.with(uid), prepared); err != nil {
			return nil, err
		}
		if !prepared {
			todo = append(todo, c)
		}
	}
	return todo, nil
}

// batches are what each driver is asked about, drivers sorted.
func batches(claims []*claim) (drivers []string, by map[string][]*drapb.Claim) {
	by = map[string][]*drapb.Claim{}
	for _, c := range claims {
		for name := range c.record.Drivers {
			by[name] = append(by[name], &drapb.Claim{Namespace: c.name.Namespace, Name: c.name.Name, Uid: string(c.record.UID)})
		}
	}
	return slices.Sorted(maps.Keys(by)), by
}

// askPrepare asks each driver once, for all of its claims, and writes down what they have prepared. The caller has the claims' turn.
func (m *Manager) askPrepare(ctx context.Context, claims []*claim) error {
	done := map[*claim]*record{}
	for _, c := range claims {
		done[c] = c.record
	}
	drivers, by := batches(claims)
	for _, name := range drivers {
		resp := &drapb.NodePrepareResourcesResponse{}
		failed, err := ask(ctx, m, name, "NodePrepareResources", by[name], &drapb.NodePrepareResourcesRequest{Claims: by[name]}, resp)
		if err != nil {
			return err
		}
		for _, c := range claims {
			if _, has := c.record.Drivers[name]; !has {
				continue
			}
			if err := failed[string(c.record.UID)]; err != nil {
				return err
			}
			done[c] = done[c].prepared(name, devices(resp.Claims[string(c.record.UID)]))
		}
	}
	for _, c := range claims {
		if err := m.set(c, done[c], true); err != nil {
			return err
		}
	}
	return nil
}

func devices(r *drapb.NodePrepareResourceResponse) (list []device) {
	for _, d := range r.GetDevices() {
		list = append(list, device{Pool: d.PoolName, Name: d.DeviceName, Share: d.GetShareId(), Requests: d.RequestNames, CDI: d.CdiDeviceIds})
	}
	return list
}

// Release has drivers undo what they have prepared for a Pod, and for no other here. Nothing of the Pod may run any more. After an error
// it is called again, at the latest when a *pod.RetryError says that there is reason.
func (m *Manager) Release(ctx context.Context, uid types.UID) error {
	begin := time.Now()
	asked, err := m.release(ctx, uid)
	if asked {
		operated("UnprepareResources", begin, err)
	}
	if err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

// release says too whether there was something to do.
func (m *Manager) release(ctx context.Context, uid types.UID) (asked bool, err error) {
	if err := m.load(); err != nil {
		return true, err
	}
	names := m.of(uid)
	if len(names) == 0 {
		return false, nil
	}
	claims, give, err := m.take(ctx, names)
	if err != nil {
		return true, err
	}
	defer give()
	var last []*claim
	for _, c := range claims {
		if rest := c.record.without(uid); len(rest.Pods) == 0 {
			last = append(last, c)
		} else if err := m.set(c, rest, c.prepared); err != nil {
			return true, err
		}
	}
	return true, m.askRelease(ctx, last)
}

// askRelease asks each driver once, and forgets the claims that all of theirs have let go. The caller has the claims' turn.
func (m *Manager) askRelease(ctx context.Context, claims []*claim) error {
	kept := map[*claim]error{}
	drivers, by := batches(claims)
	for _, name := range drivers {
		failed, err := ask(ctx, m, name, "NodeUnprepareResources", by[name], &drapb.NodeUnprepareResourcesRequest{Claims: by[name]}, &drapb.NodeUnprepareResourcesResponse{})
		for _, c := range claims {
			if _, has := c.record.Drivers[name]; has && kept[c] == nil {
				kept[c] = errors.Join(err, failed[string(c.record.UID)])
			}
		}
	}
	var errs []error
	for _, c := range claims {
		if kept[c] == nil {
			kept[c] = m.set(c, nil, false)
		} else if err := m.set(c, c.record, false); err != nil { // half undone: who has it next needs it prepared
			kept[c] = err
		}
		if err := kept[c]; err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
