package rbac_test

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	"github.com/peapod/peapod/apiserver/authz/rbac"
)

// BenchmarkAuthorize decides with the default roles and bindings, for a user who has a right and for one who has not.
func BenchmarkAuthorize(b *testing.B) {
	store := func(i cache.Indexers) cache.Indexer { return cache.NewIndexer(cache.MetaNamespaceKeyFunc, i) }
	cfg := rbac.Config{Roles: store(nil), RoleBindings: store(rbac.SubjectIndexers()), ClusterRoles: store(nil), ClusterRoleBindings: store(rbac.SubjectIndexers())}
	add := func(s cache.Indexer, obj any) {
		if err := s.Add(obj); err != nil {
			b.Fatal(err)
		}
	}
	for _, r := range append(bootstrap.ClusterRoles(), bootstrap.ControllerRoles()...) {
		add(cfg.ClusterRoles, &r)
	}
	for _, x := range bootstrap.ClusterRoleBindings() {
		add(cfg.ClusterRoleBindings, &x)
	}
	e := rbac.New(cfg)
	for name, u := range map[string]*user.DefaultInfo{
		"scheduler": {Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}},
		"stranger":  {Name: "x", Groups: []string{"a", "b", "c", user.AllAuthenticated}},
	} {
		b.Run(name, func(b *testing.B) {
			a := authorizer.AttributesRecord{User: u, Verb: "create", Namespace: "default", Resource: "pods", Subresource: "binding", Name: "p", ResourceRequest: true}
			b.ReportAllocs()
			for b.Loop() {
				if d, _, err := e.Authorize(context.Background(), a); err != nil || (d == authorizer.DecisionAllow) != (name == "scheduler") {
					b.Fatal(d, err)
				}
			}
		})
	}
}
