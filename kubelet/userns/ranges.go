// Package userns gives every Pod that has a user namespace of its own (hostUsers: false, KEP-127) a range of the machine's user
// and group IDs that no other Pod of this node has, outside of those that the machine's users have. Root in such a Pod is the
// first of the range to the machine, which is nobody.
//
// A range is a small file, named by the Pod's UID and written before the range is used: a restart finds it, and it goes when
// the Pod's sandbox has gone.
package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/atomicfile"
)

// Config is what Ranges are made from. What is not called optional is required.
type Config struct {
	// Dir keeps the ranges, across restarts.
	Dir string
	// Runtime is asked whether it can make user namespaces.
	Runtime internalapi.RuntimeService
	// MaxPods is how many Pods the node takes at once.
	MaxPods int64
	// Files say which IDs may be used; optional.
	Files Files
}

// Ranges are the ranges of one node's Pods. It is safe for concurrent use.
type Ranges struct {
	cfg Config

	mu sync.Mutex
	// first is where the range of each Pod begins; taken says the same the other way round.
	first map[types.UID]uint32
	taken map[uint32]types.UID
}

// New makes Ranges that have touched nothing yet.
func New(cfg Config) *Ranges {
	return &Ranges{cfg: cfg, first: map[types.UID]uint32{}, taken: map[uint32]types.UID{}}
}

// mapping is one mapping of the file, which has the form of the kubelet of Kubernetes.
type mapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

type mappings struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

func mappingsFrom(first uint32) mappings {
	m := []mapping{{HostID: first, Length: Length}}
	return mappings{UIDs: m, GIDs: m}
}

// valid says whether m is what mappingsFrom makes.
func (m mappings) valid() bool {
	return len(m.UIDs) == 1 && len(m.GIDs) == 1 && m.UIDs[0] == m.GIDs[0] && m.UIDs[0].ContainerID == 0 &&
		m.UIDs[0].Length == Length && m.UIDs[0].HostID >= Length && m.UIDs[0].HostID%Length == 0
}

// Open reads which Pods have ranges. They keep them even where the subordinate IDs have been changed since.
func (r *Ranges) Open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory of user namespaces: %w", err)
	}
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list user namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(r.cfg.Dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") { // of a write that was cut short
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("clear directory of user namespaces: %w", err)
			}
			continue
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read user namespace: %w", err)
		}
		var m mappings
		if err := json.Unmarshal(body, &m); err != nil {
			return fmt.Errorf("invalid user namespace mappings file %s: %w", path, err)
		}
		uid := types.UID(e.Name())
		if !m.valid() {
			return fmt.Errorf("invalid user namespace configuration in %s: it must have one mapping of %d IDs from 0, the same for users and groups", path, Length)
		}
		if other, ok := r.taken[m.UIDs[0].HostID]; ok {
			return fmt.Errorf("range picked for pod %q already taken by pod %q: see %s", uid, other, r.cfg.Dir)
		}
		r.hold(uid, m.UIDs[0].HostID)
	}
	return nil
}

func (r *Ranges) hold(uid types.UID, first uint32) { r.first[uid], r.taken[first] = first, uid }

// Of is the user namespace that the Pod's sandbox and containers are configured with. A Pod with hostUsers: false keeps what it is
// given first until Release; the runtime's handler counts then only.
func (r *Ranges) Of(ctx context.Context, pod *v1.Pod, handler string) (*runtimeapi.UserNamespace, error) {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, nil
	}
	first, ok := r.of(pod.UID)
	if !ok {
		// The answer cannot change while the Pod has one: its sandbox is there.
		if err := r.supported(ctx, handler); err != nil {
			return nil, err
		}
		var err error
		if first, err = r.assign(pod.UID); err != nil {
			return nil, fmt.Errorf("create user namespace: %w", err)
		}
	}
	ids := []*runtimeapi.IDMapping{{HostId: first, ContainerId: 0, Length: Length}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}, nil
}

func (r *Ranges) of(uid types.UID) (first uint32, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok = r.first[uid]
	return first, ok
}

// supported returns an error if the runtime cannot make user namespaces by the handler.
func (r *Ranges) supported(ctx context.Context, handler string) error {
	message := "can't set `spec.hostUsers: false`, runtime does not support user namespaces"
	if handler != "" {
		message = fmt.Sprintf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
	}
	st, err := r.cfg.Runtime.Status(ctx, false)
	if err != nil {
		return fmt.Errorf("%s: %w", message, err)
	}
	for _, h := range st.RuntimeHandlers {
		if h.Name != handler {
			continue
		}
		if !h.GetFeatures().GetUserNamespaces() {
			return errors.New(message)
		}
		return nil
	}
	return fmt.Errorf("%s: the handler %q is not known", message, handler)
}

// assign gives the Pod a range that is free. They are tried from a random one on, so that two nodes on one machine, which do not
// know of each other, rarely have the same.
func (r *Ranges) assign(uid types.UID) (uint32, error) {
	from, err := pool(r.cfg.Files, r.cfg.MaxPods)
	if err != nil {
		return 0, fmt.Errorf("kubelet mappings: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.first[uid]; ok {
		return first, nil
	}
	count := from.length / Length
	start := rand.Uint32N(count)
	for i := range count {
		first := from.first + (start+i)%count*Length
		if _, taken := r.taken[first]; taken {
			continue
		}
		body, err := json.Marshal(mappingsFrom(first))
		if err != nil {
			return 0, fmt.Errorf("encode mappings: %w", err)
		}
		// Synced: of two Pods with one range, each could reach what is the other's.
		if err := atomicfile.Write(r.path(uid), body, 0o600); err != nil {
			return 0, err
		}
		r.hold(uid, first)
		return first, nil
	}
	return 0, fmt.Errorf("could not find an empty slot to allocate a user namespace: all %d are in use", count)
}

func (r *Ranges) path(uid types.UID) string { return filepath.Join(r.cfg.Dir, string(uid)) }

// Release gives the Pod's range back, if it has one. No process of the Pod may run any more.
func (r *Ranges) Release(uid types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.first[uid]
	if !ok {
		return nil
	}
	if err := os.Remove(r.path(uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release user namespace: %w", err)
	}
	delete(r.first, uid)
	delete(r.taken, first)
	return nil
}

// Pods are those that have ranges, in no order.
func (r *Ranges) Pods() []types.UID {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]types.UID, 0, len(r.first))
	for uid := range r.first {
		list = append(list, uid)
	}
	return list
}
