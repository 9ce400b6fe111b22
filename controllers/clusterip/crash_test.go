package clusterip

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

// interrupted is the storage of one resource that calls before ahead of each creation and deletion.
type interrupted struct {
	storage.Interface
	before func()
}

func (s interrupted) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	s.before()
	return s.Interface.Create(ctx, key, obj, out, ttl)
}

func (s interrupted) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions,
	valid storage.ValidateObjectFunc, cached runtime.Object, o storage.DeleteOptions) error {
	s.before()
	return s.Interface.Delete(ctx, key, out, pre, valid, cached, o)
}

// interrupt has before be called ahead of what is written to a resource.
func interrupt(inner generic.StorageDecorator, resource string, before func()) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := inner(config, prefix, key, newFunc, newListFunc, attrs, triggers, indexers)
		if err == nil && config.GroupResource.Resource == resource {
			s = interrupted{s, before}
		}
		return s, destroy, err
	}
}

// TestKilledBetween: a server that is killed after it has taken an address and before it has stored the Service, or after it has
// deleted the Service and before it has given the address back, leaves an address that is free again when the next one has looked.
func TestKilledBetween(t *testing.T) {
	for _, c := range []struct {
		name, resource string
		deletes        bool
	}{{"create", "services", false}, {"delete", "ipaddresses", true}} {
		t.Run(c.name, func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			var left vfs.FS
			// What is on the disk when the second write begins is what a kill then leaves.
			var kill atomic.Bool
			s := servertest.New(t, disk, func(config *apiserver.Config) {
				config.Storage = interrupt(config.Storage, c.resource, func() {
					if kill.CompareAndSwap(true, false) {
						left = disk.CrashClone(vfs.CrashCloneCfg{})
					}
				})
			})
			<-s.Ready()
			client := s.Client(t)
			if c.deletes {
				service(t, client, "web", "10.96.7.7")
			}
			kill.Store(true)
			if c.deletes {
				if err := client.CoreV1().Services(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			} else {
				service(t, client, "web", "10.96.7.7")
			}
			s.Stop()

			next := servertest.New(t, left, nil)
			<-next.Ready()
			client = next.Client(t)
			if _, err := client.NetworkingV1().IPAddresses().Get(t.Context(), "10.96.7.7", metav1.GetOptions{}); err != nil {
				t.Fatalf("the address was not left behind, so nothing is tested: %v", err)
			}
			list, err := client.CoreV1().Services(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=web"})
			if err != nil || len(list.Items) != 0 {
				t.Fatalf("the Service was left behind, so nothing is tested: %v", err)
			}
			w := start(t, next)
			awaitFree(t, w, "10.96.7.7")
			awaitEvent(t, w, "10.96.7.7", "IPAddressNotAllocated", "for Service default/web appears to have leaked: cleaning up")
			service(t, client, "other", "10.96.7.7")
		})
	}
}
