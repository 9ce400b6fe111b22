package kubernetesservice

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
)

// A server makes itself known by a Lease as upstream's API servers do, with its address beside.
const (
	identityLabel = "apiserver.kubernetes.io/identity"
	identity      = "kube-apiserver"
	// addressAnnotation is where the server serves.
	addressAnnotation = "peapod.io/address"
	// life is how long a server is taken for alive after it was last heard of; renewEvery, how often it lets hear of itself.
	life, renewEvery = 15 * time.Second, 5 * time.Second
	// forgotten is how long the Lease of a server that is dead is kept; upstream's.
	forgotten = time.Hour
	// leaveTimeout bounds how long a server that stops tries to say so.
	leaveTimeout = 2 * time.Second
)

// servers are the API servers of the cluster, as their Leases tell.
type servers struct {
	cfg     Config
	lease   string
	holder  string
	changed func()
	synced  cache.DoneChecker

	mu   sync.Mutex
	seen map[string]sighting
}

// sighting is when a server was heard of, by this machine's clock: those of servers may differ.
type sighting struct {
	address netip.Addr
	renewed time.Time // what the server wrote
	at      time.Time // when it was seen here
}

// leaseName is a name for the server's Lease that is one whatever the server is called.
func leaseName(server string) string {
	sum := sha256.Sum256([]byte(server))
	return "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

func newServers(cfg Config, changed func()) (*servers, error) {
	s := &servers{cfg: cfg, lease: leaseName(cfg.Server), changed: changed, seen: map[string]sighting{}}
	s.holder = s.lease + "_" + string(uuid.NewUUID())
	r, err := s.leases().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: s.see, UpdateFunc: func(_, obj any) { s.see(obj) }, DeleteFunc: s.forget,
	})
	if err != nil {
		return nil, fmt.Errorf("watch the other servers: %w", err)
	}
	s.synced = r.HasSyncedChecker()
	return s, nil
}

func (s *servers) leases() coordinationinformers.LeaseInformer {
	return s.cfg.Informers.Coordination().V1().Leases()
}

// see notes a server's Lease.
func (s *servers) see(obj any) {
	l, ok := obj.(*coordinationv1.Lease)
	if !ok || l.Namespace != metav1.NamespaceSystem || l.Labels[identityLabel] != identity || l.Spec.RenewTime == nil {
		return
	}
	address, err := netip.ParseAddr(l.Annotations[addressAnnotation])
	if err != nil {
		return // a Lease that somebody else made
	}
	s.mu.Lock()
	before, known := s.seen[l.Name]
	now := sighting{address: address, renewed: l.Spec.RenewTime.Time, at: s.cfg.Clock.Now()}
	fresh := !known || before.address != address || now.at.Sub(before.at) >= life
	if known && before.renewed.Equal(now.renewed) {
		now.at = before.at // seen again, not heard of again
	}
	s.seen[l.Name] = now
	s.mu.Unlock()
	if fresh {
		s.changed()
	}
}

func (s *servers) forget(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil || name.Namespace != metav1.NamespaceSystem {
		return
	}
	s.mu.Lock()
	_, known := s.seen[name.Name]
	delete(s.seen, name.Name)
	s.mu.Unlock()
	if known {
		s.changed()
	}
}

// alive returns the addresses of the servers that are alive, in order, and when the first of the others may be dead. It is
// empty until this server has seen its own Lease: before, it does not know the others either.
func (s *servers) alive(now time.Time) (addresses []netip.Addr, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[s.lease]; !ok {
		return nil, 0
	}
	for name, v := range s.seen {
		left := life - now.Sub(v.at)
		if name == s.lease {
			addresses = append(addresses, v.address)
			continue
		}
		if left <= 0 {
			continue
		}
		addresses = append(addresses, v.address)
		if again == 0 || left < again {
			again = left
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), again
}

// run lets hear of this server until ctx ends, and then no more.
func (s *servers) run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", s.synced) {
		return nil
	}
	tick := s.cfg.Clock.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		if err := errors.Join(s.renew(ctx), s.bury(ctx)); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not let the other servers hear of this one, will try again", "after", renewEvery)
		}
		select {
		case <-ctx.Done():
			return s.leave(context.WithoutCancel(ctx))
		case <-tick.C():
		}
	}
}

// renew makes the Lease, or renews it.
func (s *servers) renew(ctx context.Context) error {
	api := s.cfg.Client.CoordinationV1().Leases(metav1.NamespaceSystem)
	want := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: s.lease,
			Labels:      map[string]string{identityLabel: identity, corev1.LabelHostname: s.cfg.Server},
			Annotations: map[string]string{addressAnnotation: s.cfg.API.Addr().String()}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &s.holder, LeaseDurationSeconds: ptr.To(int32(life.Seconds())),
			RenewTime: &metav1.MicroTime{Time: s.cfg.Clock.Now()}},
	}
	old, err := s.leases().Lister().Leases(want.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err == nil:
		next := old.DeepCopy()
		next.Spec = want.Spec
		next.Labels, next.Annotations = merged(old.Labels, want.Labels), merged(old.Annotations, want.Annotations)
		_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil // the cache lags behind; the next time is soon
	}
	if err != nil {
		return fmt.Errorf("renew lease %s: %w", s.lease, err)
	}
	return nil
}

// bury deletes the Leases of servers that have not been heard of for long: a server that is killed leaves its own behind.
func (s *servers) bury(ctx context.Context) error {
	var dead []string
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	for name, v := range s.seen {
		if name != s.lease && now.Sub(v.at) >= forgotten {
			dead = append(dead, name)
		}
	}
	s.mu.Unlock()
	for _, name := range dead {
		l, err := s.leases().Lister().Leases(metav1.NamespaceSystem).Get(name)
		if err == nil {
			err = s.cfg.Client.CoordinationV1().Leases(l.Namespace).Delete(ctx, name, metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion}})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete the lease of a server that is gone, %s: %w", name, err)
		}
	}
	return nil
}

func merged(old, want map[string]string) map[string]string {
	all := maps.Clone(old)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, want)
	return all
}

// leave has the others lead nobody here any more at once, instead of when they miss this server.
func (s *servers) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	err := s.cfg.Client.CoordinationV1().Leases(metav1.NamespaceSystem).Delete(ctx, s.lease, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		// They find out by themselves.
		klog.FromContext(ctx).Error(err, "Could not tell the other servers that this one stops")
	}
	return nil
}

var _ engine.Runner = (*keeper)(nil)
