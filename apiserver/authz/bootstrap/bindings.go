package bootstrap

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	bootstrappingLabel   = "kubernetes.io/bootstrapping"
	autoUpdateAnnotation = rbacv1.AutoUpdateAnnotationKey
)

// meta is the metadata of what is made here.
func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name,
		Labels:      map[string]string{bootstrappingLabel: "rbac-defaults"},
		Annotations: map[string]string{autoUpdateAnnotation: "true"}}
}

func users(names ...string) []rbacv1.Subject {
	var list []rbacv1.Subject
	for _, n := range names {
		list = append(list, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: n})
	}
	return list
}

func groups(names ...string) []rbacv1.Subject {
	var list []rbacv1.Subject
	for _, n := range names {
		list = append(list, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: n})
	}
	return list
}

func account(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}
}

// ControllerRoles returns the roles of the controllers.
func ControllerRoles() []rbacv1.ClusterRole { return controllerRules() }

// ClusterRoleBindings returns the cluster-wide bindings that every cluster has: each is called as its role.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	bind := func(role string, subjects ...rbacv1.Subject) rbacv1.ClusterRoleBinding {
		return rbacv1.ClusterRoleBinding{ObjectMeta: meta("", role), Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
	}
	list := []rbacv1.ClusterRoleBinding{
		bind("cluster-admin", groups(user.SystemPrivilegedGroup)...),
		bind("system:monitoring", groups(user.MonitoringGroup)...),
		bind("system:discovery", groups(user.AllAuthenticated)...),
		bind("system:basic-user", groups(user.AllAuthenticated)...),
		bind("system:public-info-viewer", groups(user.AllAuthenticated, user.AllUnauthenticated)...),
		bind("system:service-account-issuer-discovery", groups("system:serviceaccounts")...),
		bind("system:cluster-trust-bundle-discovery", groups("system:serviceaccounts")...),
		bind("system:node-proxier", users(user.KubeProxy)...),
		bind("system:kube-controller-manager", users(user.KubeControllerManager)...),
		bind("system:kube-scheduler", users(user.KubeScheduler)...),
		bind("system:volume-scheduler", users(user.KubeScheduler)...),
		bind("system:kube-dns", account("kube-dns")),
		// The node authorizer grants what nodes may do: the role is bound to nobody.
		bind("system:node"),
		bind(MetricsUser, users(MetricsUser)...),
	}
	list = append(list, joiningBindings()...)
	for _, role := range controllerRules() {
		list = append(list, bind(role.Name, account(strings.TrimPrefix(role.Name, controllerPrefix))))
	}
	return list
}

// NodeConfigMap, in kube-system, tells nodes what they must know of the cluster. They read it as the proxy's user.
const NodeConfigMap = "peapod-node-config"

// MetricsUser asks kubelets what is used, for metrics.k8s.io; its role is called the same.
const MetricsUser = "peapod:metrics"

// joinGroup is the group of bootstrap tokens with which nodes join.
const joinGroup = "system:bootstrappers:kubeadm:default-node-token"

// joiningBindings let machines become nodes, as kubeadm sets it up. What routes packets on a node (the overlay, the proxy, DNS and
// network policies) acts as the proxy's user, which sees all nodes, Services and endpoints, and what policies are made of: a node as
// such sees itself alone.
func joiningBindings() []rbacv1.ClusterRoleBinding {
	bind := func(name, role string, subjects []rbacv1.Subject) rbacv1.ClusterRoleBinding {
		return rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
	}
	const requests = "system:certificates.k8s.io:certificatesigningrequests:"
	return []rbacv1.ClusterRoleBinding{
		bind("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", groups(joinGroup)),
		bind("kubeadm:node-autoapprove-bootstrap", requests+"nodeclient", groups(joinGroup)),
		bind("kubeadm:node-autoapprove-certificate-rotation", requests+"selfnodeclient", groups(user.NodesGroup)),
		bind("peapod:node-network-policy", "peapod:node-network-policy", users(user.KubeProxy)),
		bind("peapod:node-dns", "system:kube-dns", users(user.KubeProxy)),
	}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) rbacv1.Role {
	return rbacv1.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

// Roles returns the roles in the system's own namespaces.
func Roles() []rbacv1.Role {
	const system, public = metav1.NamespaceSystem, metav1.NamespacePublic
	return []rbacv1.Role{
		role(system, "extension-apiserver-authentication-reader",
			named(readVerbs, "core", "configmaps", "extension-apiserver-authentication")),
		role(system, "system:controller:bootstrap-signer", rule(readVerbs, "core", "secrets")),
		role(system, "peapod:node-config", named(readVerbs, "core", "configmaps", NodeConfigMap)),
		role(system, "system:controller:cloud-provider", rule("create get list watch", "core", "configmaps")),
		role(system, "system:controller:token-cleaner", rule("delete get list watch", "core", "secrets"), events()),
		role(system, "system::leader-locking-kube-controller-manager",
			rule("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-controller-manager")),
		role(system, "system::leader-locking-kube-scheduler",
			rule("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")),
		role(public, "system:controller:bootstrap-signer",
			rule(readVerbs, "core", "configmaps"), named("update", "core", "configmaps", "cluster-info"), events()),
	}
}

// RoleBindings returns the bindings in the system's own namespaces.
func RoleBindings() []rbacv1.RoleBinding {
	const system, public = metav1.NamespaceSystem, metav1.NamespacePublic
	bind := func(namespace, name, role string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
		return rbacv1.RoleBinding{ObjectMeta: meta(namespace, name), Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}}
	}
	const managerLock, schedulerLock = "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-scheduler"
	return []rbacv1.RoleBinding{
		bind(system, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
			users(user.KubeControllerManager, user.KubeScheduler)...),
		bind(system, "peapod:node-config", "peapod:node-config", users(user.KubeProxy)...),
		bind(system, managerLock, managerLock, append(users(user.KubeControllerManager), account("kube-controller-manager"))...),
		bind(system, schedulerLock, schedulerLock, append(users(user.KubeScheduler), account("kube-scheduler"))...),
		bind(system, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", account("bootstrap-signer")),
		bind(system, "system:controller:cloud-provider", "system:controller:cloud-provider", account("cloud-provider")),
		bind(system, "system:controller:token-cleaner", "system:controller:token-cleaner", account("token-cleaner")),
		bind(public, "system:controller:bootstrap-signer", "system:controller:bootstrap-signer", account("bootstrap-signer")),
	}
}
