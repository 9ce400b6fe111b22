package bootstrap

import (
	"context"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	source "k8s.io/client-go/tools/cache/testing"
)

// Who waits for roles goes on when the last of them is shown, or when told to stop.
func TestAwait(t *testing.T) {
	role := func(name string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	api := source.NewFakeControllerSource()
	api.Add(role("first"))
	informer := cache.NewSharedIndexInformer(api, &rbacv1.ClusterRole{}, 0, nil)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if obj.(*rbacv1.ClusterRole).Name == "other" {
			api.Add(role("last"))
		}
	}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		informer.RunWithContext(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	api.Add(role("other"))
	if err := await(t.Context(), informer, names([]rbacv1.ClusterRole{*role("last"), *role("first")})); err != nil {
		t.Fatal(err)
	}
	if _, exists, err := informer.GetStore().GetByKey("last"); !exists || err != nil {
		t.Errorf("went on before the last was shown: %v", err)
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	if err := await(over, informer, names([]rbacv1.ClusterRole{*role("never")})); err != nil {
		t.Error(err)
	}
}
