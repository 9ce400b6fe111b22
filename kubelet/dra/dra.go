// Package dra has the devices made ready that Pods claim (dynamic resource allocation), as far as a node has a part in that: it
// registers the drivers of the node, asks them to prepare the claims of a Pod before its sandbox is made, and to undo that when the last
// Pod with the claim has ended here. What a container gets of a device are names in the Container Device Interface, which the container
// runtime knows what to do with.
//
// What was begun is on disk before a driver is asked: a file for each claim, with the Pods that have it. So a start after a crash knows
// what drivers may have done, and what containers are to get that start anew.
//
// Nobody can use the devices of a driver that has gone: its ResourceSlices of this node are deleted then, half a minute later, and those
// of all drivers when the node starts. Without drivers and claims there is one look into a directory at the start, and that one request.
package dra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/internal/turn"
)

// Kubernetes' time-outs: of one call to a driver, and of the absence of one before nobody can claim its devices any more. The latter is
// time for a driver's Pod to be replaced.
const (
	callTimeout = 45 * time.Second
	wipeDelay   = 30 * time.Second
)

// Config is what a Manager is made from; all of it is needed but Changed.
type Config struct {
	// Client acts as the node.
	Client   kubernetes.Interface
	NodeName string
	// RootDir is the kubelet's.
	RootDir string
	// Node returns the node's object.
	Node func() (*v1.Node, error)
	// Changed is called, in the background, with each Pod for which Health may say something else now; it may be nil.
	Changed func(types.UID)
}

// Manager has the claims of the Pods of one node.
type Manager struct {
	cfg       Config
	wipeDelay time.Duration

	ctx    context.Context // of what is done in the background; ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	loading sync.Once
	failed  error // of the loading

	mu sync.Mutex
	// drivers are those that are registered, by name: one of them may have several programs while it is being updated, newest last.
	drivers map[string][]*driver
	// away has a timer for each driver that none can be spoken with of.
	away map[string]*time.Timer
	// news is closed, and replaced, when a driver comes or can be spoken with again.
	news   chan struct{}
	claims map[types.NamespacedName]*claim

	// health is what drivers say of devices, and fading has the time when the first of that holds no more; nil while there is nothing.
	health map[deviceID]health
	fading *time.Timer
	// heard are the drivers that have had a say since the process began; hearing has the time until which the others may have one.
	heard   map[string]bool
	began   time.Time
	hearing *time.Timer
}

// claim is what the node has of a ResourceClaim, or is about to have.
type claim struct {
	name types.NamespacedName
	// turn has who asks drivers about the claim, and writes its file.
	turn turn.Turn
	// waiting are those that have the turn or wait for it. This and what follows is guarded by the Manager's mu; record is never
	// changed, but replaced, by who has the turn. It is nil while the node has nothing of the claim.
	waiting int
	record  *record
	// prepared says that all drivers have prepared the claim for this process.
	prepared bool
}

// New makes a Manager. Nothing is read before the first call.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, wipeDelay: wipeDelay, drivers: map[string][]*driver{}, away: map[string]*time.Timer{},
		news: make(chan struct{}), claims: map[types.NamespacedName]*claim{}, health: map[deviceID]health{}, heard: map[string]bool{}, began: time.Now()}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Open begins what is done in the background, once there is a Node: no driver has registered yet.
func (m *Manager) Open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spawn(func() { m.wipe("") })
}

// Close ends that, and the connections to drivers. Claims stay prepared, and the next process takes them over.
func (m *Manager) Close() {
	m.mu.Lock()
	m.cancel()
	for _, t := range m.away {
		t.Stop()
	}
	for _, t := range []*time.Timer{m.fading, m.hearing} {
		if t != nil {
			t.Stop()
		}
	}
	var open []*driver
	for _, list := range m.drivers {
		open = append(open, list...)
	}
	m.mu.Unlock()
	for _, d := range open {
		d.close()
	}
	m.work.Wait()
}

// spawn runs f unless Close was called. The caller holds mu.
func (m *Manager) spawn(f func()) {
	if m.ctx.Err() == nil {
		m.work.Go(f)
	}
}

// load takes over what an earlier process has left, once.
func (m *Manager) load() error {
	m.loading.Do(func() {
		records, err := readAll(m.ctx, m.dir())
		if err != nil {
			m.failed = err
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, r := range records {
			inUse(nil, r)
			m.entry(r.name()).record = r
		}
	})
	return m.failed
}

// entry returns what there is of a claim; it is made if need be. The caller holds mu.
func (m *Manager) entry(name types.NamespacedName) *claim {
	c := m.claims[name]
	if c == nil {
		c = &claim{name: name, turn: turn.New()}
		m.claims[name] = c
	}
	return c
}

// take returns when the caller has the turn of all claims, which it has until it calls give. They come in the order of their names, as
// everybody takes them, so that no two wait for one another.
func (m *Manager) take(ctx context.Context, names []types.NamespacedName) (list []*claim, give func(), err error) {
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	names = slices.Compact(names)
	give = func() {
		for _, c := range list {
			c.turn.Give()
			m.leave(c)
		}
	}
	for _, name := range names {
		m.mu.Lock()
		c := m.entry(name)
		c.waiting++
		m.mu.Unlock()
		if err := c.turn.Take(ctx); err != nil {
			m.leave(c)
			give()
			return nil, nil, err
		}
		list = append(list, c)
	}
	return list, give, nil
}

// leave forgets a claim that nobody has anything to do with.
func (m *Manager) leave(c *claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.waiting--
	if c.waiting == 0 && c.record == nil {
		delete(m.claims, c.name)
	}
}

// set writes down what the node has of a claim: nil for nothing. The caller has the claim's turn.
func (m *Manager) set(c *claim, r *record, prepared bool) error {
	m.mu.Lock()
	old := c.record
	m.mu.Unlock()
	switch {
	case r == nil && old != nil:
		if err := old.remove(m.dir()); err != nil {
			return err
		}
	case r != nil && !r.equal(old):
		if err := r.save(m.dir()); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	inUse(c.record, r)
	c.record, c.prepared = r, prepared
	return nil
}

// of are the names of the claims that a Pod has here.
func (m *Manager) of(uid types.UID) (names []types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, c := range m.claims {
		if c.record != nil && slices.Contains(c.record.Pods, uid) {
			names = append(names, name)
		}
	}
	return names
}

// Pods are the UIDs of all that have claims prepared, or may have.
func (m *Manager) Pods() ([]types.UID, error) {
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("read prepared claims: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []types.UID
	for _, c := range m.claims {
		if c.record != nil {
			list = append(list, c.record.Pods...)
		}
	}
	return list, nil
}
