package clusterroleaggregation

import (
	"context"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/peapod/peapod/controllers/engine"
)

func role(name, collects string, labels map[string]string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}, APIGroups: []string{""}, Resources: []string{"pods"}})
	}
	if collects != "" {
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{collects: "true"}}}}
	}
	return r
}

// TestAggregation follows roles that come, change and go, through two levels.
func TestAggregation(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := fake.NewClientset(
		role("top", "to-top", nil),
		role("middle", "to-middle", map[string]string{"to-top": "true"}, "left-over"),
		role("b", "", map[string]string{"to-middle": "true"}, "list", "get"),
		role("a", "", map[string]string{"to-middle": "true"}, "get", "watch"),
		role("stranger", "", nil, "delete"))
	factory := informers.NewSharedInformerFactory(client, 0)
	loop, err := New(engine.Deps{Client: client, Informers: factory})
	if err != nil {
		t.Fatal(err)
	}
	roles := client.RbacV1().ClusterRoles()
	w, err := roles.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	factory.StartWithContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	}()
	// until waits for the verbs of top.
	until := func(want string) {
		t.Helper()
		for {
			select {
			case e := <-w.ResultChan():
				r, ok := e.Object.(*rbacv1.ClusterRole)
				if !ok || e.Type == watch.Deleted || r.Name != "top" {
					continue
				}
				var verbs []string
				for _, rule := range r.Rules {
					verbs = append(verbs, rule.Verbs...)
				}
				if strings.Join(verbs, " ") == want {
					return
				}
			case <-ctx.Done():
				t.Fatalf("top never had the verbs %q", want)
			}
		}
	}
	until("get watch list")
	if _, err := roles.Create(ctx, role("c", "", map[string]string{"to-top": "true"}, "patch"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("patch get watch list")
	if err := roles.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("patch list get")
}
