package pods

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/written"
)

// lookAgain is after what time an owner is looked at again whose last changes the informers do not show, though their events should have
// come long before.
const lookAgain = 30 * time.Second

// Behind is what a controller returns of an owner that is not Settled.
func Behind() error {
	return &engine.Retry{After: lookAgain, Why: "changes are not seen yet"}
}

// Pending is what was done for owners and the informers may not show yet: Pods that were created or deleted, and writes of the owner
// itself. A controller that decided again before they do would do its work twice. A Job whose informer is behind that of Pods would
// not know that it has counted a Pod, and make another in its place.
//
// Nothing is counted: a write is shown once its informer has come to its resource version, a deletion once the informer shows the Pod
// ending, another one of its name, or none. So a Pod that came and went while the informer was away leaves nothing behind.
type Pending struct {
	index *Index
	// owners is where the informer keeps the owners.
	owners written.Store

	mu sync.Mutex
	// undone are the owners for whom something was done since Settled last said yes.
	undone map[cache.ObjectName]*undone
}

// undone is what the informers have yet to show of an owner.
type undone struct {
	uid     types.UID
	written written.Versions
	deleted map[types.UID]cache.ObjectName
}

// NewPending returns an empty set about the Pods of the index, whose owners are in a store.
func NewPending(x *Index, owners written.Store) *Pending {
	return &Pending{index: x, owners: owners, undone: map[cache.ObjectName]*undone{}}
}

func (p *Pending) of(owner metav1.Object) *undone {
	name := cache.MetaObjectToName(owner)
	u := p.undone[name]
	if u == nil || u.uid != owner.GetUID() {
		u = &undone{uid: owner.GetUID(), written: written.Versions{}, deleted: map[types.UID]cache.ObjectName{}}
		p.undone[name] = u
	}
	return u
}

// Wrote notes that the owner was written; it is as the API answered.
func (p *Pending) Wrote(owner metav1.Object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(owner).written.Add(p.owners, owner.GetResourceVersion())
}

func (p *Pending) created(owner Owner, made *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(owner).written.Add(p.index.indexer, made.ResourceVersion)
}

func (p *Pending) deleted(owner Owner, old *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(owner).deleted[old.UID] = cache.MetaObjectToName(old)
}

// Settled says whether the informers show all that was done for the owner; what is read after that shows it. If not, an event of the
// owner, or of one of its Pods, will come when they do, unless the informer of Pods was cut off: who waits for Pods looks again after
// a time (Behind).
func (p *Pending) Settled(owner cache.ObjectName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.undone[owner]
	if u == nil {
		return true
	}
	if !u.written.Shown() {
		return false
	}
	for uid, name := range u.deleted {
		seen, err := p.index.Get(name.Namespace, name.Name)
		if err == nil && seen.UID == uid && seen.DeletionTimestamp == nil {
			return false
		}
	}
	delete(p.undone, owner)
	return true
}

// AwaitsPods says whether Pods of the owner were created or deleted since Settled last said yes.
func (p *Pending) AwaitsPods(owner cache.ObjectName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.undone[owner]
	return u != nil && (u.written[p.index.indexer] != "" || len(u.deleted) > 0)
}

// Forget drops what is expected for an owner that is gone. It is an informer's handler of deletions.
func (p *Pending) Forget(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	owner, ok := obj.(metav1.Object)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := cache.MetaObjectToName(owner)
	if u := p.undone[name]; u != nil && u.uid == owner.GetUID() { // there may be another of the name by now
		delete(p.undone, name)
	}
}
