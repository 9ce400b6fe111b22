package node

import (
	"context"

	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/peapod/peapod/internal/localpath"
)

// volume lets a node read the persistent volumes of its Pods, and list those that the built-in provisioner has put on it.
// Those it may patch; NodeRestriction looks at what of them.
func (n *Authorizer) volume(ctx context.Context, node string, a authorizer.Attributes) verdict {
	switch a.GetVerb() {
	case "list", "watch":
		if a.GetSubresource() == "" && labelled(a, localpath.NodeLabel, node) {
			return verdict{yes: true}
		}
	case "patch":
		if a.GetSubresource() != "" {
			return no("cannot patch subresource")
		}
		return n.relatedAs(ctx, node, a, localVolumes)
	}
	return n.readOne(ctx, node, a)
}

// labelled says whether the request is limited to objects that have the label.
func labelled(a authorizer.Attributes, key, value string) bool {
	requirements, err := a.GetLabelSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Key() == key && oneOf(string(r.Operator()), string(selection.Equals), string(selection.DoubleEquals), string(selection.In)) &&
			r.Values().Len() == 1 && r.Values().Has(value) {
			return true
		}
	}
	return false
}
