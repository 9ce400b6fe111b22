package pods

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// Pending are the Pods that were created or deleted and that the informer may not show so yet. A controller that decided
// again before it does would do its work twice.
//
// Nothing is counted: a creation is shown once the informer has come to its resource version, a deletion once the informer
// shows the Pod ending, another one of its name, or none. So a Pod that came and went while the informer was away leaves
// nothing behind.
type Pending struct {
	index *Index

	mu sync.Mutex
	// owners are those for whom something was done since Settled last said yes.
	owners map[types.UID]*undone
}

// undone is what the informer has yet to show of an owner's Pods.
type undone struct {
	// created is the highest resource version of a Pod that was created; "" for none.
	created string
	deleted map[types.UID]cache.ObjectName
}

// NewPending returns an empty set about the Pods of the index.
func NewPending(x *Index) *Pending {
	return &Pending{index: x, owners: map[types.UID]*undone{}}
}

func (p *Pending) of(owner Owner) *undone {
	u := p.owners[owner.GetUID()]
	if u == nil {
		u = &undone{deleted: map[types.UID]cache.ObjectName{}}
		p.owners[owner.GetUID()] = u
	}
	return u
}

func (p *Pending) created(owner Owner, made *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.of(owner)
	if u.created == "" || !reached(u.created, made.ResourceVersion) {
		u.created = made.ResourceVersion
	}
}

func (p *Pending) deleted(owner Owner, old *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(owner).deleted[old.UID] = cache.MetaObjectToName(old)
}

// Settled says whether the informer shows all that was done for the owner. If not, an event of a Pod of the owner will
// come when it does, unless the informer was cut off: who waits should look again after a time.
func (p *Pending) Settled(owner types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.owners[owner]
	if u == nil {
		return true
	}
	if u.created != "" && !reached(p.index.indexer.LastStoreSyncResourceVersion(), u.created) {
		return false
	}
	for uid, name := range u.deleted {
		seen, err := p.index.Get(name.Namespace, name.Name)
		if err == nil && seen.UID == uid && seen.DeletionTimestamp == nil {
			return false
		}
	}
	delete(p.owners, owner)
	return true
}

// Forget drops what is expected for an owner that is gone.
func (p *Pending) Forget(owner types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, owner)
}

// reached says whether a resource version is at or past another. Ones that cannot be compared are taken for reached.
func reached(now, wanted string) bool {
	c, err := resourceversion.CompareResourceVersion(now, wanted)
	return now != "" && (err != nil || c >= 0)
}
