package admission_test

import (
	"net/http"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/apiserver/authz/bootstrap"
)

func anonymous(t *testing.T, c *cluster) {
	k, err := rest.HTTPClientFor(c.config())
	fine(t, err)
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/healthz": 200, "/version": 200,
		"/api": 401, "/apis": 401, "/metrics": 401, "/openid/v1/jwks": 401, "/livez/ping": 401, "/": 401,
		"/api/v1/namespaces/default/pods": 401, "/openapi/v2": 401} {
		response, err := k.Get(c.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != want {
			t.Errorf("GET %s without credential: %d, want %d", path, response.StatusCode, want)
		}
		fine(t, response.Body.Close())
	}
	// A bad credential is not taken for none.
	request, err := http.NewRequest(http.MethodGet, c.URL+"/livez", nil)
	fine(t, err)
	request.Header.Set("Authorization", "Bearer nonsense")
	response, err := k.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 401 {
		t.Errorf("GET /livez with a bad token: %d, want 401", response.StatusCode)
	}
	fine(t, response.Body.Close())
}

func defaultRoles(t *testing.T, c *cluster) {
	roles := c.system.RbacV1().ClusterRoles()
	before, err := roles.List(ctx, metav1.ListOptions{})
	fine(t, err)
	if n := len(before.Items); n < 70 {
		t.Errorf("%d cluster roles, want all of them", n)
	}
	fine(t, bootstrap.Reconcile(ctx, c.system))
	after, err := roles.List(ctx, metav1.ListOptions{})
	fine(t, err)
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("a second reconciliation wrote: version %s became %s", before.ResourceVersion, after.ResourceVersion)
	}
	// What is taken away comes back, what is added stays.
	role, err := roles.Get(ctx, "system:kube-dns", metav1.GetOptions{})
	fine(t, err)
	role.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	_, err = roles.Update(ctx, role, metav1.UpdateOptions{})
	fine(t, err)
	protected, err := roles.Get(ctx, "system:heapster", metav1.GetOptions{})
	fine(t, err)
	protected.Rules, protected.Annotations = nil, map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
	_, err = roles.Update(ctx, protected, metav1.UpdateOptions{})
	fine(t, err)
	binding, err := c.system.RbacV1().ClusterRoleBindings().Get(ctx, "system:monitoring", metav1.GetOptions{})
	fine(t, err)
	fine(t, c.system.RbacV1().ClusterRoleBindings().Delete(ctx, binding.Name, metav1.DeleteOptions{}))
	binding.ResourceVersion, binding.UID, binding.RoleRef.Name = "", "", "view"
	_, err = c.system.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	fine(t, err)

	fine(t, bootstrap.Reconcile(ctx, c.system))
	role, err = roles.Get(ctx, "system:kube-dns", metav1.GetOptions{})
	fine(t, err)
	if len(role.Rules) != 5 {
		t.Errorf("system:kube-dns has %d rules after reconciliation, want the one that was added and four: %v", len(role.Rules), role.Rules)
	}
	protected, err = roles.Get(ctx, "system:heapster", metav1.GetOptions{})
	fine(t, err)
	if len(protected.Rules) != 0 {
		t.Error("a role that does not want to be updated was")
	}
	binding, err = c.system.RbacV1().ClusterRoleBindings().Get(ctx, "system:monitoring", metav1.GetOptions{})
	fine(t, err)
	if binding.RoleRef.Name != "system:monitoring" {
		t.Errorf("system:monitoring is bound to %s after reconciliation", binding.RoleRef.Name)
	}
}

func roles(t *testing.T, c *cluster) {
	alice := c.as(t, "alice", "devs")
	_, err := alice.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	refused(t, err, `pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default"`)
	_, err = alice.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	refused(t, err, `nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope`)
	_, err = c.system.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "devs"},
		RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "devs"}}}, metav1.CreateOptions{})
	fine(t, err)
	settle(t, func() error {
		_, err := alice.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		return err
	})
	_, err = alice.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	refused(t, err, "in the namespace \"kube-system\"")
	// A certificate that another authority signed is nobody's.
	bad := c.config()
	bad.CertData, bad.KeyData = c.CA.ClientCert(t, "kubernetes-admin").CurrentCertKeyContent()
	if _, err := client(t, bad).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a certificate of a foreign authority was believed")
	}
}

func escalation(t *testing.T, c *cluster) {
	// Mallory may write roles and bindings, and read configmaps.
	_, err := c.system.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "mallory"},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"}, ResourceNames: nil},
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}, metav1.CreateOptions{})
	fine(t, err)
	role, err := c.system.RbacV1().ClusterRoles().Get(ctx, "mallory", metav1.GetOptions{})
	fine(t, err)
	role.Rules[0].Verbs = []string{"create", "update", "get", "list", "delete"} // neither escalate nor bind
	_, err = c.system.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
	fine(t, err)
	_, err = c.system.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "mallory"},
		RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "mallory"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "mallory"}}}, metav1.CreateOptions{})
	fine(t, err)
	mallory := c.as(t, "mallory", "m")
	settle(t, func() error {
		_, err := mallory.RbacV1().Roles("default").List(ctx, metav1.ListOptions{})
		return err
	})
	secrets := []rbacv1.PolicyRule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}
	_, err = mallory.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Rules: secrets}, metav1.CreateOptions{})
	refused(t, err, `roles.rbac.authorization.k8s.io "s" is forbidden: user "mallory" (groups=["m" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`)
	held := []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"x"}}}
	made, err := mallory.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "held"}, Rules: held}, metav1.CreateOptions{})
	fine(t, err)
	made.Rules = secrets
	_, err = mallory.RbacV1().ClusterRoles().Update(ctx, made, metav1.UpdateOptions{})
	refused(t, err, "is attempting to grant RBAC permissions not currently held")
	_, err = mallory.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}}, metav1.CreateOptions{})
	refused(t, err, "must have cluster-admin privileges to use the aggregationRule")
	bind := func(role string) error {
		_, err := mallory.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "m-" + role},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "mallory"}}}, metav1.CreateOptions{})
		return err
	}
	refused(t, bind("cluster-admin"), "is attempting to grant RBAC permissions not currently held")
	fine(t, bind("held"))
	if err := bind("not-there"); !apierrors.IsNotFound(err) {
		t.Errorf("binding a role that is not there: %v", err)
	}
}
