package etcd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
)

// An etcd that others use is not filled, and one whose filling was interrupted is filled anew. Revisions go on after those of the
// former place, what expires does, and history is forgotten.
func TestFill(t *testing.T) {
	s := openTest(t, func(c *Config) { c.Servers = testserver.RunEtcd(t, nil).Endpoints() })
	ctx := t.Context()
	if _, err := s.client.Put(ctx, "/registry/core/pods/a/theirs", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fill(ctx, "me"); err == nil || !strings.Contains(err.Error(), "something below /registry already") {
		t.Fatalf("an etcd in use is filled: %v", err)
	}
	if _, err := s.client.Delete(ctx, "/registry/core/pods/a/theirs"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(ctx, "/registry-of-others/x", "theirs"); err != nil {
		t.Fatal(err)
	}
	first := fill(t, s, "me")
	if err := first.Put(ctx, []Entry{{Key: "/core/pods/a/stale"}, {Key: "/zoo/crabs/a/stale"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fill(ctx, "somebody else"); err == nil {
		t.Fatal("two fill one etcd")
	}
	f := fill(t, s, "me")
	const before = 3000
	if err := f.Pass(ctx, before); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	entries := []Entry{
		{Key: "/core/events/a/late", Data: []byte("late"), Expires: now.Add(time.Hour)},
		{Key: "/core/events/a/later", Data: []byte("later"), Expires: now.Add(time.Hour + time.Second)},
		{Key: "/core/events/a/over", Data: []byte("over"), Expires: now.Add(-time.Second)},
	}
	for i := range 200 {
		entries = append(entries, Entry{Key: fmt.Sprintf("/core/pods/a/p-%d", i), Data: []byte{byte(i)}})
	}
	if err := f.Put(ctx, entries); err != nil {
		t.Fatal(err)
	}
	if err := f.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Done(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := s.client.Get(ctx, "/registry/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 202 {
		t.Errorf("there are %d keys", len(r.Kvs))
	}
	leases := map[string]int64{}
	for _, kv := range r.Kvs {
		if kv.CreateRevision <= before {
			t.Errorf("%s has revision %d", kv.Key, kv.CreateRevision)
		}
		leases[strings.TrimPrefix(string(kv.Key), "/registry/core/events/a/")] = kv.Lease
		if strings.HasSuffix(string(kv.Key), "stale") || strings.HasSuffix(string(kv.Key), "over") {
			t.Errorf("%s is there", kv.Key)
		}
	}
	if ttl, err := s.client.TimeToLive(ctx, clientv3.LeaseID(leases["late"])); err != nil || ttl.TTL < 3000 || ttl.TTL > 3670 {
		t.Errorf("the lease is %+v, %v", ttl, err)
	}
	if _, err := s.client.Get(ctx, "/registry/", clientv3.WithRev(before+1)); err == nil {
		t.Error("history is there")
	}
	if theirs, err := s.client.Get(ctx, "/registry-of-others/x"); err != nil || len(theirs.Kvs) != 1 {
		t.Errorf("another prefix: %v, %v", theirs, err)
	}
}

func fill(t *testing.T, s *Store, id string) *Filling {
	t.Helper()
	f, err := s.Fill(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
