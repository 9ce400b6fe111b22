package aggregation

import "k8s.io/apimachinery/pkg/runtime/schema"

// Group is that of APIServices. It comes before all others, whatever they claim, and has no APIService itself.
const Group = "apiregistration.k8s.io"

// Priorities of a group among groups and of a version in its group. Clients look up names that several groups have in the group of the
// highest.
const (
	ownPriority = 20001 // beyond what an APIService may have
	// plainPriority is that of a group of this server that the table does not know.
	plainPriority  = 15000
	plainVersion   = 15
	customPriority = 1000
	customVersion  = 100
)

// Priority is upstream's of a group version that the server has by itself.
func Priority(gv schema.GroupVersion) (group, version int) {
	groups := map[string]int{
		Group: ownPriority,
		"":    18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
		"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
		"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "admissionregistration.k8s.io": 16700,
		"apiextensions.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
		"discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
		"internal.apiserver.k8s.io": 16000, "storagemigration.k8s.io": 15800,
		// As metrics-server's: below custom resources, so that "pods" and "nodes" are those of the core.
		"metrics.k8s.io": 100,
	}
	versions := map[schema.GroupVersion]int{
		{Group: "", Version: "v1"}: 1, {Group: "autoscaling", Version: "v2"}: 30, {Group: "resource.k8s.io", Version: "v1"}: 21,
		{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21, {Group: "metrics.k8s.io", Version: "v1beta1"}: 100,
	}
	group, version = plainPriority, plainVersion
	if p, ok := groups[gv.Group]; ok {
		group = p
	}
	if p, ok := versions[gv]; ok {
		version = p
	}
	return group, version
}
