// Package node decides what kubelets may do: a node gets at the Pods that are bound to it and at what these need, at its
// own Node object, Lease and CSINode, and at the rest by a fixed list of rules. What the content of a request matters
// for is left to the admission plugin NodeRestriction.
package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/peapod/peapod/apiserver/authz/rbac"
)

// Config says how nodes are judged.
type Config struct {
	Graph *Graph
	// Rules are those of the role system:node.
	Rules []rbacv1.PolicyRule
	// SliceNode returns the node of a ResourceSlice, empty if it has none or there is no such slice.
	SliceNode func(ctx context.Context, name string) (string, error)
	// Synced waits until the graph holds what existed at the start, or ctx ends.
	Synced func(ctx context.Context) bool
	// Patience is how long a node waits for no: 200 ms if zero.
	Patience time.Duration
}

// Authorizer judges the requests of nodes and has no opinion about others.
type Authorizer struct{ cfg Config }

var (
	_ authorizer.Authorizer   = &Authorizer{}
	_ authorizer.RuleResolver = &Authorizer{}
)

// New makes an authorizer.
func New(cfg Config) *Authorizer {
	if cfg.Patience == 0 {
		cfg.Patience = 200 * time.Millisecond
	}
	return &Authorizer{cfg: cfg}
}

// RulesFor cannot list what a node may do, and says so.
func (n *Authorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := Identity(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// verdict is yes, or the reason for no.
type verdict struct {
	yes    bool
	reason string
}

func no(format string, args ...any) verdict { return verdict{reason: fmt.Sprintf(format, args...)} }

// Authorize allows or has no opinion.
func (n *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	name, isNode := Identity(a.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if name == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName()), nil
	}
	v := n.judge(ctx, name, a)
	if v.yes {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, v.reason, nil
}

// ConditionsAwareAuthorize is Authorize: there are no conditions here.
func (n *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(n.Authorize(ctx, a))
}

// EvaluateConditions is never needed: there are no conditions here.
func (n *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

func (n *Authorizer) judge(ctx context.Context, node string, a authorizer.Attributes) verdict {
	if !a.IsResourceRequest() {
		return verdict{yes: rbac.RulesAllow(a, n.cfg.Rules...)}
	}
	switch (schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}) {
	case schema.GroupResource{Resource: secrets}, schema.GroupResource{Resource: configMaps}:
		return n.read(ctx, node, a)
	case schema.GroupResource{Resource: persistentVolumeClaims}:
		if a.GetSubresource() == "status" {
			return n.updateStatus(ctx, node, a)
		}
		return n.readOne(ctx, node, a)
	case schema.GroupResource{Resource: persistentVolumes}:
		return n.volume(ctx, node, a)
	case schema.GroupResource{Group: "resource.k8s.io", Resource: resourceClaims},
		schema.GroupResource{Group: "storage.k8s.io", Resource: volumeAttachments}:
		return n.get(ctx, node, a)
	case schema.GroupResource{Resource: serviceAccounts}:
		return n.serviceAccount(ctx, node, a)
	case schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}:
		return podCertificate(node, a)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		return lease(node, a)
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		return csiNode(node, a)
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
		return n.slice(ctx, node, a)
	case schema.GroupResource{Resource: "nodes"}:
		return ownNode(node, a)
	case schema.GroupResource{Resource: pods}:
		return n.pod(ctx, node, a)
	}
	return verdict{yes: rbac.RulesAllow(a, n.cfg.Rules...)}
}

// related judges a request for one object by the graph.
func (n *Authorizer) related(ctx context.Context, node string, a authorizer.Attributes) verdict {
	return n.relatedAs(ctx, node, a, a.GetResource())
}

// relatedAs judges it as one for an object of that kind in the graph.
func (n *Authorizer) relatedAs(ctx context.Context, node string, a authorizer.Attributes, kind string) verdict {
	if a.GetName() == "" {
		return no("No Object name found")
	}
	o := object{kind, a.GetNamespace(), a.GetName()}
	if n.cfg.Synced(ctx) && n.cfg.Graph.Related(ctx, node, o, n.cfg.Patience) {
		return verdict{yes: true}
	}
	return no("no relationship found between node '%s' and this object", node)
}

func (n *Authorizer) read(ctx context.Context, node string, a authorizer.Attributes) verdict {
	if a.GetNamespace() == "" {
		return no("can only read namespaced object of this type")
	}
	return n.readOne(ctx, node, a)
}

// readOne lets a node get an object that it has to do with, and list or watch that one by its name. Claims and volumes
// are read so too, where upstream's kubelet, which asks again and again, only gets them: it shows nothing else.
func (n *Authorizer) readOne(ctx context.Context, node string, a authorizer.Attributes) verdict {
	switch {
	case !oneOf(a.GetVerb(), "get", "list", "watch"):
		return no("can only read resources of this type")
	case a.GetSubresource() != "":
		return no("cannot read subresource")
	}
	return n.related(ctx, node, a)
}

func (n *Authorizer) get(ctx context.Context, node string, a authorizer.Attributes) verdict {
	switch {
	case a.GetVerb() != "get":
		return no("can only get individual resources of this type")
	case a.GetSubresource() != "":
		return no("cannot get subresource")
	}
	return n.related(ctx, node, a)
}

func (n *Authorizer) updateStatus(ctx context.Context, node string, a authorizer.Attributes) verdict {
	if !oneOf(a.GetVerb(), "update", "patch") {
		return no("can only get/update/patch this type")
	}
	return n.related(ctx, node, a)
}

// serviceAccount lets a node read the accounts of its Pods, whose UIDs it tells signers, and make tokens for them.
func (n *Authorizer) serviceAccount(ctx context.Context, node string, a authorizer.Attributes) verdict {
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return n.get(ctx, node, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return no("can only create tokens for individual service accounts")
	case a.GetSubresource() != "token":
		return no("can only create token subresource of serviceaccount")
	}
	return n.related(ctx, node, a)
}

// lease lets a node have its own. The name is not known on a create; NodeRestriction looks at it.
func lease(node string, a authorizer.Attributes) verdict {
	switch {
	case !oneOf(a.GetVerb(), "get", "create", "update", "patch", "delete"):
		return no("can only get, create, update, patch, or delete a node lease")
	case a.GetNamespace() != corev1.NamespaceNodeLease:
		return no("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case a.GetVerb() != "create" && a.GetName() != node:
		return no("can only access node lease with the same name as the requesting node")
	}
	return verdict{yes: true}
}

// podCertificate lets a node ask for certificates, and see what becomes of its own requests. NodeRestriction looks at what it
// asks.
func podCertificate(node string, a authorizer.Attributes) verdict {
	if a.GetSubresource() != "" {
		return no("nodes may not access the %s subresource of podcertificaterequests", a.GetSubresource())
	}
	switch a.GetVerb() {
	case "create":
		return verdict{yes: true}
	case "get", "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return verdict{yes: true}
		}
		return no("can only get/list/watch podcertificaterequests with spec.nodeName=%s field selector", node)
	}
	return no("only the following verbs are allowed for a PodCertificateRequest: create, get, list, watch")
}

// csiNode lets a node have its own, as lease does.
func csiNode(node string, a authorizer.Attributes) verdict {
	switch {
	case !oneOf(a.GetVerb(), "get", "create", "update", "patch", "delete"):
		return no("can only get, create, update, patch, or delete a CSINode")
	case a.GetSubresource() != "":
		return no("cannot authorize CSINode subresources")
	case a.GetVerb() != "create" && a.GetName() != node:
		return no("can only access CSINode with the same name as the requesting node")
	}
	return verdict{yes: true}
}

func (n *Authorizer) slice(ctx context.Context, node string, a authorizer.Attributes) verdict {
	if a.GetSubresource() != "" {
		return no("cannot authorize ResourceSlice subresources")
	}
	switch a.GetVerb() {
	case "create": // NodeRestriction looks at spec.nodeName
		return verdict{yes: true}
	case "get", "update", "patch", "delete":
		return n.ownSlice(ctx, node, a)
	case "watch", "list", "deletecollection":
		if selects(a, resourcev1.ResourceSliceSelectorNodeName, node) {
			return verdict{yes: true}
		}
		return no("can only list/watch/deletecollection resourceslices with nodeName field selector")
	}
	return no("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection")
}

// ownSlice judges a request for one slice.
func (n *Authorizer) ownSlice(ctx context.Context, node string, a authorizer.Attributes) verdict {
	if a.GetName() == "" {
		return no("No Object name found")
	}
	of, err := n.cfg.SliceNode(ctx, a.GetName())
	switch {
	case err != nil:
		return no("cannot tell whose ResourceSlice it is: %v", err)
	case of != node:
		return no("no relationship found between node '%s' and this object", node)
	}
	return verdict{yes: true}
}

// ownNode goes by the name, so that a node may look for itself before it exists. NodeRestriction holds writes to it.
func ownNode(node string, a authorizer.Attributes) verdict {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "create", "update", "patch":
			return verdict{yes: true}
		case "get", "list", "watch":
			switch a.GetName() {
			case node:
				return verdict{yes: true}
			case "":
				return no("node '%s' cannot read all nodes, only its own Node object", node)
			}
			return no("node '%s' cannot read '%s', only its own Node object", node, a.GetName())
		}
	case "status":
		return verdict{yes: oneOf(a.GetVerb(), "update", "patch")}
	}
	return verdict{}
}

// pod leaves to NodeRestriction which Pods a node creates, deletes, evicts and reports on.
func (n *Authorizer) pod(ctx context.Context, node string, a authorizer.Attributes) verdict {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "get":
			return n.get(ctx, node, a)
		case "list", "watch":
			if selects(a, "spec.nodeName", node) {
				return verdict{yes: true}
			}
			if a.GetName() != "" {
				return n.related(ctx, node, a)
			}
			return no("can only list/watch pods with spec.nodeName field selector")
		case "create", "delete":
			return verdict{yes: true}
		}
	case "status":
		return verdict{yes: oneOf(a.GetVerb(), "update", "patch")}
	case "eviction":
		return verdict{yes: a.GetVerb() == "create"}
	}
	return verdict{}
}

// selects says whether the request is limited to objects whose field has that value.
func selects(a authorizer.Attributes, field, value string) bool {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == field && r.Operator == selection.Equals && r.Value == value {
			return true
		}
	}
	return false
}

func oneOf(s string, list ...string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}
