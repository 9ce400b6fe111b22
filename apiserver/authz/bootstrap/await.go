package bootstrap

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/ensure"
)

// patience bounds Await: what somebody deletes before an informer sees it is never shown.
const patience = 10 * time.Second

// Await waits until the informers have shown what Reconcile makes. An authorizer decides by them: until then it refuses requests that the
// roles allow, and who was refused comes again only after a while.
func Await(ctx context.Context, f informers.SharedInformerFactory) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	api := f.Rbac().V1()
	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		missing  map[cache.ObjectName]bool
	}{
		{api.ClusterRoles().Informer(), names(append(ClusterRoles(), ControllerRoles()...))},
		{api.ClusterRoleBindings().Informer(), names(ClusterRoleBindings())},
		{api.Roles().Informer(), names(Roles())},
		{api.RoleBindings().Informer(), names(RoleBindings())},
	} {
		if err := await(ctx, kind.informer, kind.missing); err != nil {
			return fmt.Errorf("wait for roles and bindings: %w", err)
		}
	}
	return nil
}

// await waits until the informer has shown all that is missing, or ctx ends.
func await(ctx context.Context, informer cache.SharedIndexInformer, missing map[cache.ObjectName]bool) error {
	shown := make(chan struct{})
	handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		name, err := cache.ObjectToName(obj)
		if err != nil || !missing[name] {
			return
		}
		if delete(missing, name); len(missing) == 0 {
			close(shown)
		}
	}})
	if err != nil {
		return err
	}
	select {
	case <-shown:
	case <-ctx.Done():
	}
	return informer.RemoveEventHandler(handle)
}

func names[T any, P ensure.Pointer[T]](list []T) map[cache.ObjectName]bool {
	out := make(map[cache.ObjectName]bool, len(list))
	for i := range list {
		out[cache.MetaObjectToName(P(&list[i]))] = true
	}
	return out
}
