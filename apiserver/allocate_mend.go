package apiserver

import (
	"context"
	"errors"
	"time"

	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/registry"
)

// mendEvery is how often claims are compared with what objects hold. What nothing holds twice in a row is given back: a
// request that claimed it has long ended by then.
const mendEvery = 10 * time.Minute

// restore has the allocators know what the stored objects hold. mend keeps it so until its context ends.
func (s *Server) restore(ctx context.Context) (mend func(context.Context), err error) {
	env := s.env
	if env.ServiceIPs, err = s.ips.Open(ctx); err != nil {
		return nil, err
	}
	if s.config.Claims != nil {
		m := &mender{claims: s.config.Claims, env: env, storages: s.storages}
		err := m.mend(ctx)
		m.env = s.env
		return m.run, err
	}
	for _, st := range s.storages {
		if err := st.Restore(ctx, env); err != nil {
			return nil, err
		}
	}
	return func(context.Context) {}, nil // nobody else changes what they know
}

// held is an allocator that only notes what objects say that they hold.
type held map[string]bool

func (h held) Release(int32) {}
func (h held) Allocate(port int32) (int32, error) {
	h[portClaim(port)] = true
	return port, nil
}

// mender compares claims with what objects hold: after a crash between the two, one may be there without the other.
type mender struct {
	claims   Claims
	env      resource.Env
	storages []*registry.Storage
	// loose are the claims that nothing held when they were last compared.
	loose map[string]int64
}

// mend claims what objects hold, and gives back what nothing held the last time either.
func (m *mender) mend(ctx context.Context) error {
	// The claims first: what is claimed after that is nobody's business here.
	taken, err := m.claims.List(ctx, "")
	if err != nil {
		return err
	}
	all := held{}
	env := m.env
	env.NodePorts = all
	for _, st := range m.storages {
		if err := st.Restore(ctx, env); err != nil {
			return err
		}
	}
	var errs []error
	for name := range all {
		if _, ok := taken[name]; !ok {
			if _, err := m.claims.Take(ctx, name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	loose := map[string]int64{}
	for name, number := range taken {
		if all[name] {
			continue
		}
		if m.loose[name] != number {
			loose[name] = number
		} else if err := m.claims.ReleaseAt(ctx, name, number); err != nil {
			errs = append(errs, err)
		}
	}
	m.loose = loose
	return errors.Join(errs...)
}

// run mends until ctx ends.
func (m *mender) run(ctx context.Context) {
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := m.mend(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not compare what Services hold with what is claimed for them, will try again", "after", mendEvery)
		}
	}
}
