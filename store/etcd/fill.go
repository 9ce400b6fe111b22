package etcd

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// Entry is what is to lie under a key, which is given without the prefix and begins with a slash.
type Entry struct {
	Key  string
	Data []byte
	// Expires is when it is to go; zero: never.
	Expires time.Time
}

const (
	// fillers is how many writes are under way at once: enough that etcd syncs many together.
	fillers = 64
	// maxWrites is how many of the writes that only count etcd keeps, at some hundred bytes each.
	maxWrites = 100_000
	// leaseStep is what the ends of leases are rounded up to, so that there are few.
	leaseStep = time.Minute
)

// Filling is an etcd that gets the objects of a cluster that was elsewhere before. Its keys are a filling's alone until Done.
type Filling struct {
	store *Store
	id    string
}

// Fill begins, for a cluster that id names, with an etcd that has nothing below the prefix, or what an earlier Filling of the same id has
// left, which is removed.
func (s *Store) Fill(ctx context.Context, id string) (*Filling, error) {
	f := &Filling{s, id}
	all := path.Join("/", s.cfg.Prefix) + "/"
	empty := clientv3.Compare(clientv3.CreateRevision(all), "=", 0).WithPrefix()
	r, err := s.client.Txn(ctx).If(empty).Then(clientv3.OpPut(f.mark(), id)).Else(clientv3.OpGet(f.mark())).Commit()
	if err != nil {
		return nil, fmt.Errorf("begin to fill etcd: %w", err)
	}
	if r.Succeeded {
		return f, nil
	}
	if got := r.Responses[0].GetResponseRange().Kvs; len(got) == 0 || string(got[0].Value) != id {
		return nil, fmt.Errorf("etcd has something below %s already, that is not of this cluster; choose another --etcd-prefix or empty it", s.cfg.Prefix)
	}
	// As one step, so that the mark never lacks: without it the rest would be a stranger's.
	if _, err := s.client.Txn(ctx).Then(clientv3.OpDelete(all, clientv3.WithRange(f.mark())),
		clientv3.OpDelete(f.mark()+"\x00", clientv3.WithRange(clientv3.GetPrefixRangeEnd(all)))).Commit(); err != nil {
		return nil, fmt.Errorf("remove what an earlier attempt has left in etcd: %w", err)
	}
	return f, nil
}

// mark is the key that says whose filling goes on.
func (f *Filling) mark() string { return f.store.Key("filling") }

// Pass has etcd's revisions go on after rev, so that nobody who has seen revisions until then takes something new for old. Etcd counts
// writes: one is made for each revision that it lacks, some thousand a second.
func (f *Filling) Pass(ctx context.Context, rev int64) error {
	for {
		r, err := f.store.client.Get(ctx, f.mark())
		if err != nil {
			return fmt.Errorf("read etcd's revision: %w", err)
		}
		lacking := rev - r.Header.Revision
		if lacking <= 0 {
			return nil
		}
		err = f.each(ctx, int(min(lacking, maxWrites)), func(ctx context.Context, _ int) error {
			_, err := f.store.client.Put(ctx, f.mark(), f.id)
			return err
		})
		if err == nil {
			err = f.Forget(ctx) // or etcd would run full
		}
		if err != nil {
			return err
		}
	}
}

// Put writes entries, but for those that have expired.
func (f *Filling) Put(ctx context.Context, entries []Entry) error {
	leases := &leases{client: f.store.client, until: map[int64]*lease{}}
	return f.each(ctx, len(entries), func(ctx context.Context, i int) error {
		e := entries[i]
		var with []clientv3.OpOption
		if !e.Expires.IsZero() {
			if !e.Expires.After(time.Now()) {
				return nil
			}
			id, err := leases.get(ctx, e.Expires)
			if err != nil {
				return err
			}
			with = append(with, clientv3.WithLease(id))
		}
		_, err := f.store.client.Put(ctx, path.Join("/", f.store.cfg.Prefix)+e.Key, string(e.Data), with...)
		return err
	})
}

// each calls write for all numbers below n, several at once.
func (f *Filling) each(ctx context.Context, n int, write func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fillers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return write(ctx, i) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("write to etcd: %w", err)
	}
	return nil
}

// Forget makes history what was written before: who asks for changes since a revision of the cluster's former place is told to list anew.
func (f *Filling) Forget(ctx context.Context) error {
	r, err := f.store.client.Put(ctx, f.mark(), f.id)
	if err == nil {
		_, err = f.store.client.Compact(ctx, r.Header.Revision)
	}
	if err != nil {
		return fmt.Errorf("compact etcd: %w", err)
	}
	return nil
}

// Done ends it: what is in etcd is the cluster from now on.
func (f *Filling) Done(ctx context.Context) error {
	if _, err := f.store.client.Delete(ctx, f.mark()); err != nil {
		return fmt.Errorf("end the filling of etcd: %w", err)
	}
	return nil
}

// leases are what entries expire by.
type leases struct {
	client *clientv3.Client

	mu    sync.Mutex
	until map[int64]*lease
}

type lease struct {
	once sync.Once
	id   clientv3.LeaseID
	err  error
}

// get returns the lease of what is to go at that time.
func (l *leases) get(ctx context.Context, at time.Time) (clientv3.LeaseID, error) {
	slot := at.Add(leaseStep - 1).Truncate(leaseStep)
	l.mu.Lock()
	one := l.until[slot.Unix()]
	if one == nil {
		one = &lease{}
		l.until[slot.Unix()] = one
	}
	l.mu.Unlock()
	one.once.Do(func() {
		r, err := l.client.Grant(ctx, int64(time.Until(slot).Seconds())+1)
		if err != nil {
			one.err = fmt.Errorf("make a lease: %w", err)
			return
		}
		one.id = r.ID
	})
	return one.id, one.err
}
