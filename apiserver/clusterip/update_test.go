package clusterip_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

// uneasy is the storage of Services in which before looks at each update that is ready to be stored: an error keeps it from that.
type uneasy struct {
	storage.Interface
	before func() error
}

func (s uneasy) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, pre *storage.Preconditions,
	update storage.UpdateFunc, cached runtime.Object) error {
	return s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, pre, func(in runtime.Object, res storage.ResponseMeta) (runtime.Object, *uint64, error) {
		obj, ttl, err := update(in, res)
		if err == nil {
			err = s.before()
		}
		return obj, ttl, err
	}, nil) // of what is stored, so that each attempt is one
}

func uneasily(inner generic.StorageDecorator, before func() error) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := inner(config, prefix, key, newFunc, newListFunc, attrs, triggers, indexers)
		if err == nil && config.GroupResource.Resource == "services" {
			s = uneasy{s, before}
		}
		return s, destroy, err
	}
}

// What an update lets a Service lose is its own until the update is stored, and for good if that fails; what it was to get is free then.
func TestUpdates(t *testing.T) {
	var before atomic.Pointer[func() error]
	s := servertest.Start(t, func(c *apiserver.Config) {
		ranges("10.0.0.0/24")(c)
		c.Storage = uneasily(c.Storage, func() error {
			if f := before.Load(); f != nil {
				return (*f)()
			}
			return nil
		})
	})
	client := s.Client(t)
	services, ips := client.CoreV1().Services("default"), client.NetworkingV1().IPAddresses()
	held := func() []networkingv1.IPAddress {
		list, err := ips.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Error(err)
		}
		return list.Items
	}
	patch := func(merge string) error {
		_, err := services.Patch(t.Context(), "web", types.MergePatchType, []byte(merge), metav1.PatchOptions{})
		return err
	}
	svc, err := services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine := func(when string) error {
		if got := held(); len(got) != 1 || got[0].Name != svc.Spec.ClusterIP {
			return fmt.Errorf("%s, the addresses are %v, not %s alone", when, got, svc.Spec.ClusterIP)
		}
		other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort,
			Ports: []corev1.ServicePort{{Port: 80, NodePort: svc.Spec.Ports[0].NodePort}}}}
		if _, err := services.Create(t.Context(), other, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			return fmt.Errorf("%s, another Service may have the node port", when)
		}
		return nil
	}
	const loses, gets = `{"spec":{"type":"ExternalName","externalName":"a.example"}}`, `{"spec":{"type":"ClusterIP","externalName":null}}`
	full := func() error {
		if err := mine("before the update is stored"); err != nil {
			t.Error(err)
		}
		return errors.New("no space left on device")
	}
	before.Store(&full)
	if err := patch(loses); err == nil {
		t.Fatal("an update was stored on a full disk")
	}
	before.Store(nil)
	if err := mine("after an update that failed"); err != nil {
		t.Error(err)
	}
	if err := patch(loses); err != nil {
		t.Fatal(err)
	}
	if got := held(); len(got) > 0 {
		t.Errorf("a Service without an address holds %v", got)
	}
	before.Store(new(func() error { return errors.New("no space left on device") }))
	if err := patch(gets); err == nil {
		t.Fatal("an update was stored on a full disk")
	}
	before.Store(nil)
	if got := held(); len(got) > 0 {
		t.Errorf("an update that failed has taken %v", got)
	}
	if err := patch(gets); err != nil || len(held()) != 1 {
		t.Errorf("addresses %v after the Service has got one, %v", held(), err)
	}
}
