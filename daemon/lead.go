package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// builder composes a part on informers that its caller starts.
type builder func(informers.SharedInformerFactory) (func(context.Context) error, error)

// Times of an election, upstream's: a leader that is silent for leaseDuration is replaced, one that cannot renew for
// renewDeadline stops before that.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// The Leases that leaders hold, and as whom; upstream's.
const (
	managerUser   = "system:kube-controller-manager"
	managerLock   = "kube-controller-manager"
	schedulerLock = "kube-scheduler"
)

// alone returns a part that only one server of the cluster runs at a time. The one server of a cluster runs it always, on the
// informers that all share; among several the holder of the Lease does, on informers of its own: a term that ends leaves
// nothing behind.
func (c *control) alone(lock, as string, build builder) (func(context.Context) error, error) {
	if c.claims == nil {
		return build(c.informers)
	}
	client, _, err := c.clientFor(asUser(as))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := c.term(ctx, client, lock, build); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// term stands for election and leads until the lease is lost, ctx ends or the part fails. The lease is given back only when
// the part has ended: no two lead at once.
func (c *control) term(ctx context.Context, client kubernetes.Interface, lock string, build builder) error {
	campaign, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var leads atomic.Bool
	led := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: lock}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.name + "_" + string(uuid.NewUUID())},
		},
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lease context.Context) {
				leads.Store(true)
				led <- c.lead(ctx, lease, build)
				end()
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("stand for election to %s: %w", lock, err)
	}
	stop := context.AfterFunc(ctx, func() {
		if !leads.Load() {
			end()
		}
	})
	defer stop()
	elector.Run(campaign)
	if !leads.Load() {
		return nil
	}
	if err := <-led; err != nil {
		return fmt.Errorf("lead as %s: %w", lock, err)
	}
	return nil
}

// lead runs the part until the lease or ctx ends.
func (c *control) lead(ctx, lease context.Context, build builder) error {
	if ctx.Err() != nil {
		return nil
	}
	working, stop := context.WithCancel(lease)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	own := informers.NewSharedInformerFactory(c.system, 0)
	run, err := build(own)
	if err != nil {
		return err
	}
	own.StartWithContext(working)
	err = run(working)
	early := working.Err() == nil
	stop()
	own.Shutdown()
	if err == nil && early {
		err = errors.New("ended by itself")
	}
	return err
}
