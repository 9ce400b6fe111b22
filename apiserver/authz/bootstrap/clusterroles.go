package bootstrap

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	aggregateToAdmin = "rbac.authorization.k8s.io/aggregate-to-admin"
	aggregateToEdit  = "rbac.authorization.k8s.io/aggregate-to-edit"
	aggregateToView  = "rbac.authorization.k8s.io/aggregate-to-view"
)

// clusterRole makes a role with the labels and annotations of all that is made here.
func clusterRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

// part makes a role that is a part of those that collect what has the label.
func part(label, name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	r := clusterRole(name, rules...)
	r.Labels[label] = "true"
	return r
}

// whole makes a role that collects the rules of those that have the label collects, and has the labels itself.
func whole(name, collects string, labels ...string) rbacv1.ClusterRole {
	r := clusterRole(name)
	for _, l := range labels {
		r.Labels[l] = "true"
	}
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{collects: "true"}}}}
	return r
}

// ClusterRoles returns the roles that every cluster has, those of the controllers aside.
func ClusterRoles() []rbacv1.ClusterRole {
	return append(append(userRoles(), informationRoles()...), componentRoles()...)
}

// userRoles are given to people, by bindings that administrators make.
func userRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("cluster-admin", rule("*", "*", "*"), paths("*", "*")),
		whole("admin", aggregateToAdmin),
		whole("edit", aggregateToEdit, aggregateToAdmin),
		whole("view", aggregateToView, aggregateToEdit),
		part(aggregateToAdmin, "system:aggregate-to-admin",
			rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
			rule(readWriteVerbs, "rbac.authorization.k8s.io", "rolebindings roles")),
		part(aggregateToEdit, "system:aggregate-to-edit",
			// Reading these is as good as writing: the answer holds secrets, or the request itself does something.
			rule(readVerbs, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
			rule("impersonate", "core", "serviceaccounts"),
			rule(writeVerbs, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
			rule("create", "core", "pods/eviction"),
			rule(writeVerbs, "core", "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
			rule("create", "core", "serviceaccounts/token"),
			rule(writeVerbs, "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
			rule(writeVerbs, "autoscaling", "horizontalpodautoscalers"),
			rule(writeVerbs, "batch", "cronjobs jobs"),
			rule(writeVerbs, "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"),
			rule(writeVerbs, "policy", "poddisruptionbudgets"),
			rule(writeVerbs, "networking.k8s.io", "ingresses networkpolicies"),
			rule(readWriteVerbs, "coordination.k8s.io", "leases"),
			rule(writeVerbs, "resource.k8s.io", "resourceclaims resourceclaimtemplates")),
		part(aggregateToView, "system:aggregate-to-view",
			rule(readVerbs, "core", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"),
			rule(readVerbs, "core", "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"),
			// Within a namespace this reads that namespace.
			rule(readVerbs, "core", "namespaces"),
			rule(readVerbs, "discovery.k8s.io", "endpointslices"),
			rule(readVerbs, "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
			rule(readVerbs, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
			rule(readVerbs, "batch", "cronjobs cronjobs/status jobs jobs/status"),
			rule(readVerbs, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
			rule(readVerbs, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
			rule(readVerbs, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
			rule(readVerbs, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates")),
		metricsReader(),
	}
}

// metricsReader is a part of all three that people are given, as where metrics-server is installed.
func metricsReader() rbacv1.ClusterRole {
	r := clusterRole("system:aggregated-metrics-reader", rule(readVerbs, "metrics.k8s.io", "nodes pods"))
	for _, l := range []string{aggregateToAdmin, aggregateToEdit, aggregateToView} {
		r.Labels[l] = "true"
	}
	return r
}

// informationRoles tell about the server, the caller and health.
func informationRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:public-info-viewer", paths("get", "/healthz /livez /readyz /version /version/")),
		clusterRole("system:discovery", paths("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")),
		clusterRole("system:basic-user",
			rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			rule("create", "authentication.k8s.io", "selfsubjectreviews")),
		clusterRole("system:monitoring", paths("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")),
		clusterRole("system:service-account-issuer-discovery",
			paths("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")),
		clusterRole("system:auth-delegator",
			rule("create", "authentication.k8s.io", "tokenreviews"),
			rule("create", "authorization.k8s.io", "subjectaccessreviews")),
	}
}

// NodeRules are what a node may do. The node authorizer grants them with the limits that it knows of; the role
// system:node, which is bound to nobody, shows them.
func NodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
		rule(readVerbs, "core", "services"),
		rule("create get list watch", "core", "nodes"),
		rule("patch update", "core", "nodes/status"),
		rule("patch update", "core", "nodes"),
		rule("create patch update", "core", "events"),
		rule(readVerbs, "core", "pods"),
		rule("create delete", "core", "pods"),
		rule("patch update", "core", "pods/status"),
		rule("create", "core", "pods/eviction"),
		rule(readVerbs, "core", "configmaps secrets"),
		rule(readVerbs, "core", "persistentvolumeclaims persistentvolumes"),
		rule("get", "core", "endpoints"),
		rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		rule(readVerbs, "certificates.k8s.io", "clustertrustbundles"),
		rule("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
		rule("create delete get patch update", "coordination.k8s.io", "leases"),
		rule("get", "storage.k8s.io", "volumeattachments"),
		rule("create", "core", "serviceaccounts/token"),
		rule("get", "core", "serviceaccounts"),
		rule("get patch update", "core", "persistentvolumeclaims/status"),
		rule(readVerbs, "storage.k8s.io", "csidrivers"),
		rule("create delete get patch update", "storage.k8s.io", "csinodes"),
		rule(readVerbs, "node.k8s.io", "runtimeclasses"),
		rule("get", "resource.k8s.io", "resourceclaims"),
		rule("deletecollection", "resource.k8s.io", "resourceslices"),
	}
}

// componentRoles are those of the parts of the system that are not controllers.
func componentRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:node", NodeRules()...),
		clusterRole(MetricsUser, rule("get", "core", "nodes/metrics")),
		clusterRole("system:node-problem-detector",
			rule("get", "core", "nodes"), rule("patch", "core", "nodes/status"), events()),
		clusterRole("system:node-proxier",
			rule("list watch", "core", "endpoints services"), rule(readVerbs, "core", "nodes"), events(),
			rule("list watch", "discovery.k8s.io", "endpointslices"),
			rule("list watch", "networking.k8s.io", "servicecidrs")),
		clusterRole("peapod:node-network-policy",
			rule("list watch", "core", "namespaces pods"), rule("list watch", "networking.k8s.io", "networkpolicies")),
		clusterRole("system:node-bootstrapper",
			rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests")),
		clusterRole("system:kubelet-api-admin",
			rule(readVerbs, "core", "nodes"), rule("proxy", "core", "nodes"),
			rule("*", "core", "nodes/checkpoint nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats")),
		clusterRole("system:heapster",
			rule(readVerbs, "core", "events namespaces nodes pods"), rule(readVerbs, "extensions", "deployments")),
		clusterRole("system:kube-aggregator", rule(readVerbs, "core", "endpoints services")),
		clusterRole("system:kube-dns", rule("list watch", "core", "endpoints services")),
		clusterRole("system:kube-controller-manager",
			events(),
			rule("create", "coordination.k8s.io", "leases"),
			named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
			rule("create", "core", "secrets serviceaccounts"),
			rule("delete", "core", "secrets"),
			rule("get", "core", "configmaps namespaces secrets serviceaccounts"),
			rule("update", "core", "secrets serviceaccounts"),
			rule("create", "authentication.k8s.io", "tokenreviews"),
			rule("create", "authorization.k8s.io", "subjectaccessreviews"),
			rule("list watch", "*", "*"),
			rule("create", "core", "serviceaccounts/token")),
		clusterRole("system:kube-scheduler", schedulerRules()...),
		clusterRole("system:volume-scheduler",
			rule("get list patch update watch", "core", "persistentvolumes"),
			rule(readVerbs, "storage.k8s.io", "storageclasses"),
			rule("get list patch update watch", "core", "persistentvolumeclaims")),
		clusterRole("system:persistent-volume-provisioner",
			rule("create delete get list watch", "core", "persistentvolumes"),
			rule("get list update watch", "core", "persistentvolumeclaims"),
			rule(readVerbs, "storage.k8s.io", "storageclasses"),
			rule("watch", "core", "events"), events()),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:nodeclient",
			rule("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
			rule("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")),
		clusterRole("system:cluster-trust-bundle-discovery", rule(readVerbs, "certificates.k8s.io", "clustertrustbundles")),
		approver("legacy-unknown"), approver("kubelet-serving"),
		approver("kube-apiserver-client"), approver("kube-apiserver-client-kubelet"),
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		events(),
		rule("create", "coordination.k8s.io", "leases"),
		named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
		rule(readWriteVerbs, "coordination.k8s.io", "leasecandidates"),
		rule(readVerbs, "core", "nodes"),
		rule("delete get list watch", "core", "pods"),
		rule("create", "core", "bindings pods/binding"),
		rule("patch update", "core", "pods/status"),
		rule(readVerbs, "core", "replicationcontrollers services"),
		rule(readVerbs, "apps extensions", "replicasets"),
		rule(readVerbs, "apps", "statefulsets"),
		rule(readVerbs, "policy", "poddisruptionbudgets"),
		rule(readVerbs, "core", "persistentvolumeclaims persistentvolumes"),
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews"),
		rule(readVerbs, "storage.k8s.io", "csinodes"),
		rule(readVerbs, "storage.k8s.io", "volumeattachments"),
		rule(readVerbs, "core", "namespaces"),
		rule(readVerbs, "storage.k8s.io", "csidrivers"),
		rule(readVerbs, "storage.k8s.io", "csistoragecapacities"),
		rule(readVerbs, "resource.k8s.io", "deviceclasses"),
		rule("get list patch update watch", "resource.k8s.io", "resourceclaims"),
		rule("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
		rule("update", "core", "pods/finalizers"),
		rule(readVerbs, "resource.k8s.io", "resourceslices"),
		rule("create delete", "resource.k8s.io", "resourceclaims"),
		rule("patch update", "resource.k8s.io", "resourceclaims/binding"),
		rule(readVerbs, "resource.k8s.io", "devicetaintrules"),
	}
}

// approver may approve certificate requests to one of Kubernetes' signers.
func approver(signer string) rbacv1.ClusterRole {
	return clusterRole("system:certificates.k8s.io:"+signer+"-approver",
		named("approve", "certificates.k8s.io", "signers", "kubernetes.io/"+signer))
}
