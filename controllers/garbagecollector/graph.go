package garbagecollector

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/lru"
)

// identity is where an object is found.
type identity struct {
	resource        schema.GroupVersionResource
	namespace, name string
	uid             types.UID
}

// node is an object, as far as ownership goes.
type node struct {
	identity
	owners     []metav1.OwnerReference
	dependents map[types.UID]*node
	// deleting says that it has a deletion timestamp; orphaning and foreground that it waits, by a finalizer, for its
	// dependents to be let go or deleted.
	deleting, orphaning, foreground bool
	// virtual says that it was never seen, only named as an owner: its identity is what the reference says.
	virtual bool
	// reference is how a virtual node was named.
	reference metav1.OwnerReference
}

// graph is who owns whom. It has no lock, clock or I/O; each change returns what must be looked at because of it.
type graph struct {
	nodes map[types.UID]*node
	// ended has the UIDs of the last owners that were seen and are gone. The API cannot be asked about them when their kind is
	// gone, too.
	ended *lru.Cache
}

// endedOwners is how many owners that are gone are remembered; as many as upstream's.
const endedOwners = 500

func newGraph() *graph { return &graph{nodes: map[types.UID]*node{}, ended: lru.New(endedOwners)} }

// todo are the objects that a change concerns: those that may have to be deleted, and those whose dependents are to be let
// go.
type todo struct{ remove, orphan []types.UID }

// set takes in that an object was seen.
func (g *graph) set(seen node) (t todo) {
	n := g.nodes[seen.uid]
	if n == nil {
		n = &node{identity: seen.identity, dependents: map[types.UID]*node{}}
		g.nodes[seen.uid] = n
	}
	wasOrphaning, wasForeground := n.orphaning, n.foreground
	old := n.owners
	n.identity, n.virtual = seen.identity, false
	n.owners, n.deleting, n.orphaning, n.foreground = seen.owners, seen.deleting, seen.orphaning, seen.foreground
	t.remove = append(t.remove, g.relink(n, old)...)
	if n.orphaning && !wasOrphaning {
		t.orphan = append(t.orphan, n.uid)
	}
	if n.foreground && !wasForeground {
		t.remove = append(t.remove, n.uid)
		t.remove = append(t.remove, slices.Collect(maps.Keys(n.dependents))...)
	}
	return t
}

// relink brings the owners' sets of dependents in line with n.owners, which was old. It returns owners that were only
// named, so that somebody looks whether they exist, owners that n no longer holds back, and n itself where it has lost or
// gained owners.
func (g *graph) relink(n *node, old []metav1.OwnerReference) (look []types.UID) {
	changed := false
	for _, ref := range n.owners {
		i := slices.IndexFunc(old, func(o metav1.OwnerReference) bool { return o.UID == ref.UID })
		if i >= 0 {
			if blocks(old[i]) && !blocks(ref) {
				look = append(look, ref.UID)
			}
			continue
		}
		changed = true
		owner := g.nodes[ref.UID]
		if owner == nil {
			owner = &node{identity: identity{name: ref.Name, namespace: n.namespace, uid: ref.UID}, reference: ref, virtual: true, dependents: map[types.UID]*node{}}
			g.nodes[ref.UID] = owner
			look = append(look, ref.UID)
		}
		owner.dependents[n.uid] = n
		if owner.foreground {
			look = append(look, owner.uid)
		}
	}
	for _, ref := range old {
		if slices.ContainsFunc(n.owners, func(o metav1.OwnerReference) bool { return o.UID == ref.UID }) {
			continue
		}
		changed = true
		if owner := g.nodes[ref.UID]; owner != nil {
			delete(owner.dependents, n.uid)
			if owner.foreground {
				look = append(look, owner.uid)
			}
			g.forget(owner)
		}
	}
	if changed && len(n.owners) > 0 {
		// An owner that is named may be gone already.
		look = append(look, n.uid)
	}
	return look
}

// remove takes in that an object is gone.
func (g *graph) remove(uid types.UID) (t todo) {
	n := g.nodes[uid]
	if n == nil {
		return t
	}
	delete(g.nodes, uid)
	// One that was only named may exist under another name: that it is not where a reference says is no proof for others.
	if !n.virtual && len(n.dependents) > 0 {
		g.ended.Add(uid, nil)
	}
	for _, ref := range n.owners {
		if owner := g.nodes[ref.UID]; owner != nil {
			delete(owner.dependents, uid)
			if owner.foreground {
				t.remove = append(t.remove, owner.uid)
			}
			g.forget(owner)
		}
	}
	t.remove = append(t.remove, slices.Collect(maps.Keys(n.dependents))...)
	return t
}

// named returns the owners of a group that were only named.
func (g *graph) named(group string) (out []types.UID) {
	for uid, n := range g.nodes {
		if n.virtual && schema.FromAPIVersionAndKind(n.reference.APIVersion, n.reference.Kind).Group == group {
			out = append(out, uid)
		}
	}
	return out
}

// forget drops an owner that was only named, once nobody names it.
func (g *graph) forget(n *node) {
	if n.virtual && len(n.dependents) == 0 {
		delete(g.nodes, n.uid)
	}
}

// blocks says whether the owner's foreground deletion waits for the object that has this reference.
func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// blocking returns n's dependents that its foreground deletion waits for.
func (n *node) blocking() []*node {
	var out []*node
	for _, d := range n.dependents {
		if slices.ContainsFunc(d.owners, func(o metav1.OwnerReference) bool { return o.UID == n.uid && blocks(o) }) {
			out = append(out, d)
		}
	}
	return out
}

// awaits returns the dependents in foreground deletion that the one of n waits for, over any number of others: n itself is among
// them where they own each other in a circle. It costs as much as there are such dependents.
func (g *graph) awaits(n types.UID) sets.Set[types.UID] {
	seen := sets.Set[types.UID]{}
	for todo := []types.UID{n}; len(todo) > 0; {
		at := g.nodes[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if at == nil {
			continue
		}
		for _, d := range at.blocking() {
			if d.foreground && !seen.Has(d.uid) {
				seen.Insert(d.uid)
				todo = append(todo, d.uid)
			}
		}
	}
	return seen
}
