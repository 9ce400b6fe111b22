// Package policy enforces NetworkPolicies on one node: it has the kernel drop what the policies that select the node's Pods do not
// allow, from them and to them.
//
// A pure core turns Pods, Namespaces and NetworkPolicies into a table of rules (parse.go, subject.go, state.go, uses.go, desired.go,
// table.go); the Enforcer around it watches the API and changes the kernel's rules by one transaction for all that changed meanwhile.
// While the cluster has no NetworkPolicy it watches nothing else, and while no Pod of the node is isolated there is no table.
//
// Rules see packets that the node forwards. What the node itself sends to its Pods, such as probes, and what these send to the node is
// not forwarded and so always allowed, as Kubernetes asks; the cluster's DNS, which every node answers itself, with it. Connections
// that have begun are let through whatever becomes of the policies.
package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/bell"
	"github.com/peapod/peapod/network/nft"
)

// Config says where policies are enforced.
type Config struct {
	// Table is the name of the nftables table that has the rules. Nobody else may change it.
	Table string
	// NodeName is this node, whose Pods are meant.
	NodeName string
	// Pods are the networks of the node's Pods. They decide which families there are.
	Pods []netip.Prefix
	// Informers give NetworkPolicies. Whoever made them starts them, after New.
	Informers informers.SharedInformerFactory
	// Cluster is asked for informers of Pods and Namespaces when there is a first policy, and again after there was none.
	Cluster func(ctx context.Context) Cluster
}

func (c *Config) validate() error {
	if c.Table == "" || c.NodeName == "" || c.Informers == nil || c.Cluster == nil {
		return errors.New("network policies: table, node name, informers and cluster are required")
	}
	if len(c.Pods) == 0 {
		return errors.New("network policies: no network of Pods")
	}
	return nil
}

func (c *Config) families() []family {
	var out []family
	for _, is6 := range []bool{false, true} {
		if slices.ContainsFunc(c.Pods, func(p netip.Prefix) bool { return p.Addr().Is6() == is6 }) {
			out = append(out, familyOf(is6))
		}
	}
	return out
}

// Enforcer keeps the rules of one node. Its methods are safe for concurrent use.
type Enforcer struct {
	cfg      Config
	policies networkinglisters.NetworkPolicyLister
	synced   cache.DoneChecker
	applier  nft.Applier
	// bell is rung when something has changed.
	bell bell.Bell

	mu sync.Mutex
	// known are the policies that there are.
	known map[types.NamespacedName]bool
	// dirty is what the state does not know yet; attentive says that there is one that is kept.
	dirty     dirty
	attentive bool
	// given are the Pods that this node has given addresses, as Admit was told, by name and UID.
	given map[types.NamespacedName]map[types.UID]*subject
	// next ends with the next pass.
	next *pass

	// Used by Run alone: where objects come from while there are policies, what the rules are, and what is in the kernel.
	following *following
	state     *state
	kernel    presence
}

// dirty is what something has changed for.
type dirty struct {
	policies, pods map[types.NamespacedName]bool
	namespaces     map[string]bool
}

func newDirty() dirty {
	return dirty{policies: map[types.NamespacedName]bool{}, pods: map[types.NamespacedName]bool{}, namespaces: map[string]bool{}}
}

// presence says what is known of the table in the kernel.
type presence int

const (
	unknown presence = iota // an earlier process may have left one, or a change of ours failed
	absent
	applied
)

// pass is one round of work, which others wait for.
type pass struct {
	done chan struct{}
	err  error // valid when done is closed
}

// New returns an Enforcer, which does nothing until Run but notice policies.
func New(cfg Config) (*Enforcer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	policies := cfg.Informers.Networking().V1().NetworkPolicies()
	e := &Enforcer{
		cfg: cfg, policies: policies.Lister(), bell: bell.New(),
		known: map[types.NamespacedName]bool{}, dirty: newDirty(), given: map[types.NamespacedName]map[types.UID]*subject{},
		next: &pass{done: make(chan struct{})}, state: newState(cfg.families()),
	}
	on := func(is bool) func(any) {
		return func(obj any) {
			if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
				e.policyChanged(name.AsNamespacedName(), is)
			}
		}
	}
	r, err := policies.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: on(true), UpdateFunc: func(_, obj any) { on(true)(obj) }, DeleteFunc: on(false)})
	if err != nil {
		return nil, fmt.Errorf("watch network policies: %w", err)
	}
	e.synced = r.HasSyncedChecker()
	return e, nil
}

func (e *Enforcer) policyChanged(name types.NamespacedName, is bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if is {
		e.known[name] = true
	} else {
		delete(e.known, name)
	}
	if e.attentive {
		e.dirty.policies[name] = true
	}
	e.bell.Ring()
}

// Run keeps the rules until ctx ends; they stay, and hold while no Enforcer runs. The first transaction is made once all objects are
// known, and replaces what an earlier process left.
func (e *Enforcer) Run(ctx context.Context) error {
	defer e.leave()
	if !cache.WaitFor(ctx, "", e.synced) {
		return nil
	}
	e.bell.Answer(ctx, "Cannot enforce network policies, will retry", e.pass)
	return nil
}

// pass brings the rules in line with what has changed.
func (e *Enforcer) pass(ctx context.Context) error {
	e.mu.Lock()
	this := e.next
	e.next = &pass{done: make(chan struct{})}
	needed := len(e.known) > 0
	e.mu.Unlock()
	defer close(this.done)
	if !needed {
		e.leave()
		this.err = e.remove()
		return this.err
	}
	if this.err = e.follow(ctx); this.err == nil {
		e.look(ctx)
		this.err = e.write()
	}
	return this.err
}

// look reads what has changed into the state.
func (e *Enforcer) look(ctx context.Context) {
	e.mu.Lock()
	d := e.dirty
	e.dirty = newDirty()
	given := map[types.NamespacedName][]*subject{}
	for name := range d.pods {
		for _, g := range e.given[name] {
			given[name] = append(given[name], g)
		}
	}
	e.mu.Unlock()
	for name := range d.policies {
		obj, err := e.policies.NetworkPolicies(name.Namespace).Get(name.Name)
		if apierrors.IsNotFound(err) {
			e.state.setPolicy(name, nil)
			continue
		}
		var p *policy
		if err == nil {
			p, err = parse(obj)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "A network policy is not enforced as it is meant", "policy", name)
		}
		e.state.setPolicy(name, p)
	}
	for name := range d.namespaces {
		var set labels.Set
		if obj, ok := object(e.following.Namespaces, name).(*corev1.Namespace); ok {
			set = labels.Merge(nil, obj.Labels) // never nil
		}
		e.state.setNamespace(name, set)
	}
	for name := range d.pods {
		pod, _ := object(e.following.Pods, name.String()).(*corev1.Pod)
		e.setPod(name, pod, given[name])
	}
}

// setPod puts into the state what the API says of the Pod with that name, nil for nothing, and those of the name that have addresses
// from this node. The latter count until they are given back, whatever the API says.
func (e *Enforcer) setPod(name types.NamespacedName, pod *corev1.Pod, given []*subject) {
	for _, entry := range e.state.givenOf(name) {
		if !slices.ContainsFunc(given, func(g *subject) bool { return g.key() == entry }) {
			e.state.setPod(entry, nil)
		}
	}
	var s *subject
	if pod != nil {
		s = subjectOf(pod, e.cfg.NodeName)
	}
	for _, g := range given {
		now := *g
		if pod != nil && pod.UID == g.uid {
			now.labels, s = pod.Labels, nil
		}
		e.state.setPod(g.key(), &now)
	}
	e.state.setPod(name, s)
}

// write brings the kernel's table in line with the state.
func (e *Enforcer) write() error {
	e.state.settle()
	want := &e.state.desired
	if want.idle() {
		if err := e.remove(); err != nil {
			return err
		}
		want.commit()
		return nil
	}
	var err error
	if e.kernel == applied {
		err = e.applier.Update(e.cfg.Table, want.pending())
	}
	if e.kernel != applied || err != nil {
		e.kernel = unknown
		if err = e.applier.Apply(want.table(e.cfg.Table)); err != nil {
			return err
		}
	}
	e.kernel = applied
	want.commit()
	return nil
}

// remove makes sure that there is no table.
func (e *Enforcer) remove() error {
	if e.kernel == absent {
		return nil
	}
	names, err := nft.Names(e.cfg.Table)
	if err != nil {
		return fmt.Errorf("look for the rules of network policies: %w", err)
	}
	if slices.Contains(names, e.cfg.Table) {
		if err := e.applier.Delete(e.cfg.Table); err != nil {
			return err
		}
	}
	e.kernel = absent
	return nil
}

// Uninstall removes the rules. It needs no Enforcer and can be repeated.
func Uninstall(table string) error {
	var a nft.Applier
	return a.Delete(table)
}
