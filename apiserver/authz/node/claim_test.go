package node

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// TestClaims: a node reads the claims of its Pods and the volumes bound to them, one by one, and no others.
func TestClaims(t *testing.T) {
	g := NewGraph()
	g.SetPod(pod("p", "n1", "c"))
	g.SetVolume(volumeOf("pv", "c", "s"))
	// Another tenant's claim is named so too, and the volume's claim is not in the Pod's namespace.
	stolen := volumeOf("stolen", "c", "s")
	stolen.Spec.ClaimRef.Namespace = "victim"
	g.SetVolume(stolen)
	g.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "free"}})
	n := New(Config{Graph: g, Patience: 1, Synced: func(context.Context) bool { return true }})
	for _, c := range []struct {
		node, verb, resource, sub, namespace, name string
		want                                       bool
	}{
		{"n1", "get", persistentVolumeClaims, "", "ns", "c", true},
		{"n1", "list", persistentVolumeClaims, "", "ns", "c", true},
		{"n1", "watch", persistentVolumeClaims, "", "ns", "c", true},
		{"n1", "list", persistentVolumeClaims, "", "ns", "", false},
		{"n1", "update", persistentVolumeClaims, "", "ns", "c", false},
		{"n1", "delete", persistentVolumeClaims, "", "ns", "c", false},
		{"n1", "get", persistentVolumeClaims, "", "victim", "c", false},
		{"n2", "watch", persistentVolumeClaims, "", "ns", "c", false},
		{"n1", "watch", persistentVolumes, "", "", "pv", true},
		{"n1", "list", persistentVolumes, "", "", "", false},
		{"n1", "patch", persistentVolumes, "", "", "pv", false},
		{"n1", "get", persistentVolumes, "status", "", "pv", false},
		{"n1", "watch", persistentVolumes, "", "", "stolen", false},
		{"n1", "get", persistentVolumes, "", "", "free", false},
		{"n2", "get", persistentVolumes, "", "", "pv", false},
	} {
		a := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "system:node:" + c.node, Groups: []string{user.NodesGroup}},
			Verb: c.verb, Resource: c.resource, Subresource: c.sub, Namespace: c.namespace, Name: c.name, APIVersion: "v1", ResourceRequest: true}
		decision, reason, err := n.Authorize(t.Context(), a)
		if err != nil || (decision == authorizer.DecisionAllow) != c.want {
			t.Errorf("%s %s %s %s/%s: %v (%s, %v)", c.node, c.verb, c.resource, c.namespace, c.name, decision, reason, err)
		}
	}
}
