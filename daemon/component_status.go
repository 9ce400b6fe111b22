package daemon

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
)

// components are the parts of the control plane by upstream's names, for `kubectl get componentstatuses`.
func (c *control) components(stored func() error) []resource.Component {
	return []resource.Component{
		{Name: "controller-manager", Check: func(ctx context.Context) error { return c.atWork(ctx, managerLock) }},
		{Name: "etcd-0", Check: func(context.Context) error { return stored() }},
		{Name: "scheduler", Check: func(ctx context.Context) error { return c.atWork(ctx, schedulerLock) }},
	}
}

// atWork returns why the part that holds the Lease is not at work anywhere. A single server, which needs no Lease, has it once it is
// started: a part that ends ends the server.
func (c *control) atWork(ctx context.Context, lock string) error {
	if c.claims == nil {
		select {
		case <-c.started:
			return nil
		default:
			return fmt.Errorf("%s has not been started yet", lock)
		}
	}
	lease, err := c.system.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, lock, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read lease %s: %w", lock, err)
	}
	holder, renewed := ptr.Deref(lease.Spec.HolderIdentity, ""), lease.Spec.RenewTime
	if holder == "" || renewed == nil {
		return fmt.Errorf("nobody holds lease %s", lock)
	}
	if silent := time.Since(renewed.Time); silent > leaseDuration {
		return fmt.Errorf("%s, which holds lease %s, has been silent for %s", holder, lock, silent.Round(time.Second))
	}
	return nil
}
