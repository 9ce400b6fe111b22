package node

import (
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Identity says whether u is a node, and which: a member of system:nodes called system:node:NAME. A member that is
// called otherwise is a node of which nothing is known, with an empty name.
func Identity(u user.Info) (name string, isNode bool) {
	if u == nil || !strings.HasPrefix(u.GetName(), "system:node:") {
		return "", false
	}
	for _, g := range u.GetGroups() {
		if g == user.NodesGroup {
			return strings.TrimPrefix(u.GetName(), "system:node:"), true
		}
	}
	return "", false
}
