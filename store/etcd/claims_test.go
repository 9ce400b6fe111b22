package etcd

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
)

// Two servers on one etcd take each name once.
func TestClaims(t *testing.T) {
	servers := testserver.RunEtcd(t, nil).Endpoints()
	same := func(c *Config) { c.Servers = servers }
	one, two := openTest(t, same).Claims(), openTest(t, same).Claims()
	ctx := t.Context()
	var mu sync.Mutex
	taken := map[string]int{}
	var all sync.WaitGroup
	for _, c := range []*Claims{one, two} {
		for i := range 20 {
			name := fmt.Sprintf("ip/10.0.0.%d", i)
			all.Go(func() {
				ok, err := c.Take(ctx, name)
				if err != nil {
					t.Error(err)
				}
				if ok {
					mu.Lock()
					taken[name]++
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	for name, n := range taken {
		if n != 1 {
			t.Errorf("%s was taken %d times", name, n)
		}
	}
	list, err := two.List(ctx, "ip/")
	if err != nil || len(list) != 20 {
		t.Fatalf("%d of 20 are taken: %v", len(list), err)
	}
	const name = "ip/10.0.0.3"
	before := list[name]
	if err := one.Release(ctx, name); err != nil {
		t.Error(err)
	}
	if ok, err := two.Take(ctx, name); err != nil || !ok {
		t.Errorf("not free after its release: %t, %v", ok, err)
	}
	// What was claimed anew is not given back by who knows the claim before.
	if err := one.ReleaseAt(ctx, name, before); err != nil {
		t.Error(err)
	}
	if ok, err := one.Take(ctx, name); err != nil || ok {
		t.Errorf("given back although it was another claim: %t, %v", ok, err)
	}
}

// Of two servers one makes it, the other gets what that one made.
func TestOnce(t *testing.T) {
	servers := testserver.RunEtcd(t, nil).Endpoints()
	same := func(c *Config) { c.Servers = servers }
	stores := []*Store{openTest(t, same), openTest(t, same)}
	if _, _, err := stores[0].Once(t.Context(), "keys", func() ([]byte, error) { return nil, errors.New("no disk") }); err == nil {
		t.Error("it is made without being made")
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	got, times := map[string]bool{}, 0
	for i, s := range stores {
		all.Go(func() {
			v, made, err := s.Once(t.Context(), "keys", func() ([]byte, error) { return fmt.Appendf(nil, "by %d", i), nil })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[string(v)] = true
			if made {
				times++
			}
		})
	}
	all.Wait()
	if len(got) != 1 || times != 1 {
		t.Errorf("got %v, made %d times", got, times)
	}
}

// What several change at once has all of their changes.
func TestChange(t *testing.T) {
	servers := testserver.RunEtcd(t, nil).Endpoints()
	same := func(c *Config) { c.Servers = servers }
	stores := []*Store{openTest(t, same), openTest(t, same)}
	add := func(v []byte) ([]byte, error) { return append(v, 'x'), nil }
	if err := stores[0].Change(t.Context(), "keys", add); err == nil {
		t.Error("what is not there is changed")
	}
	if _, _, err := stores[0].Once(t.Context(), "keys", func() ([]byte, error) { return []byte("="), nil }); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no")
	if err := stores[0].Change(t.Context(), "keys", func([]byte) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("a change that fails: %v", err)
	}
	// The first is overtaken between its look and its write.
	overtaken := false
	err := stores[0].Change(t.Context(), "keys", func(v []byte) ([]byte, error) {
		if !overtaken {
			overtaken = true
			if err := stores[1].Change(t.Context(), "keys", add); err != nil {
				return nil, err
			}
		}
		return add(v)
	})
	if err != nil {
		t.Fatal(err)
	}
	if v, made, err := stores[1].Once(t.Context(), "keys", nil); err != nil || made || string(v) != "=xx" {
		t.Errorf("after two changes: %q, %t, %v", v, made, err)
	}
}
