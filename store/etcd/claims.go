package etcd

import (
	"context"
	"fmt"
	"path"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// own is below which the keys of this package's own lie. No API group can be called so.
const own = "peapod_"

// Key is where Once keeps what is stored under name.
func (s *Store) Key(name string) string { return path.Join("/", s.cfg.Prefix, own, name) }

// Claims are names that are taken once among all servers: the addresses and ports that Services have.
type Claims struct{ store *Store }

// Claims returns those of this etcd.
func (s *Store) Claims() *Claims { return &Claims{s} }

func (c *Claims) key(name string) string { return c.store.Key("claims") + "/" + name }

// Take claims a name and says whether it was free.
func (c *Claims) Take(ctx context.Context, name string) (bool, error) {
	free := clientv3.Compare(clientv3.CreateRevision(c.key(name)), "=", 0)
	r, err := c.store.client.Txn(ctx).If(free).Then(clientv3.OpPut(c.key(name), "")).Commit()
	if err != nil {
		return false, fmt.Errorf("claim %s: %w", name, err)
	}
	return r.Succeeded, nil
}

// Release gives a name back. It is no error if it was free.
func (c *Claims) Release(ctx context.Context, name string) error {
	if _, err := c.store.client.Delete(ctx, c.key(name)); err != nil {
		return fmt.Errorf("give back the claim of %s: %w", name, err)
	}
	return nil
}

// ReleaseAt gives a name back if it is the claim that List showed with that number, and no later one.
func (c *Claims) ReleaseAt(ctx context.Context, name string, number int64) error {
	key := c.key(name)
	same := clientv3.Compare(clientv3.CreateRevision(key), "=", number)
	if _, err := c.store.client.Txn(ctx).If(same).Then(clientv3.OpDelete(key)).Commit(); err != nil {
		return fmt.Errorf("give back the claim of %s: %w", name, err)
	}
	return nil
}

// List returns the names that begin with prefix and are taken, each with a number that tells this claim of it from others.
func (c *Claims) List(ctx context.Context, prefix string) (map[string]int64, error) {
	r, err := c.store.client.Get(ctx, c.key(prefix), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	names := make(map[string]int64, len(r.Kvs))
	for _, kv := range r.Kvs {
		names[strings.TrimPrefix(string(kv.Key), c.key(""))] = kv.CreateRevision
	}
	return names, nil
}

// lockLife is how many seconds a lock outlives the server that held it.
const lockLife = 10

// Once returns what is stored under name; where there is nothing yet, what create returns is stored, by one server at a
// time. made says that create was called.
func (s *Store) Once(ctx context.Context, name string, create func() ([]byte, error)) (value []byte, made bool, err error) {
	session, err := concurrency.NewSession(s.client, concurrency.WithContext(ctx), concurrency.WithTTL(lockLife))
	if err != nil {
		return nil, false, fmt.Errorf("lock %s in etcd: %w", name, err)
	}
	defer session.Close() // at the latest the lock ends with its lease
	mutex := concurrency.NewMutex(session, s.Key("lock/"+name))
	if err := mutex.Lock(ctx); err != nil {
		return nil, false, fmt.Errorf("lock %s in etcd: %w", name, err)
	}
	key := s.Key(name)
	r, err := s.client.Get(ctx, key)
	if err != nil {
		return nil, false, fmt.Errorf("read %s in etcd: %w", name, err)
	}
	if len(r.Kvs) > 0 {
		return r.Kvs[0].Value, false, nil
	}
	if value, err = create(); err != nil {
		return nil, false, err
	}
	// A lock that was lost meanwhile, because this machine stood still, keeps it from being written twice.
	t, err := s.client.Txn(ctx).If(mutex.IsOwner(), clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).Commit()
	if err == nil && !t.Succeeded {
		err = fmt.Errorf("another server was faster; start again")
	}
	if err != nil {
		return nil, false, fmt.Errorf("write %s in etcd: %w", name, err)
	}
	return value, true, nil
}

// Change puts what change makes of the value under name in its place, as one step: where somebody else writes meanwhile, it is called
// again with what that left. There must be a value.
func (s *Store) Change(ctx context.Context, name string, change func(value []byte) ([]byte, error)) error {
	key := s.Key(name)
	for {
		r, err := s.client.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("read %s in etcd: %w", name, err)
		}
		if len(r.Kvs) == 0 {
			return fmt.Errorf("read %s in etcd: there is none below %s", name, s.Key(""))
		}
		value, err := change(r.Kvs[0].Value)
		if err != nil {
			return err
		}
		t, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", r.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value))).Commit()
		if err != nil {
			return fmt.Errorf("write %s in etcd: %w", name, err)
		}
		if t.Succeeded {
			return nil
		}
	}
}
