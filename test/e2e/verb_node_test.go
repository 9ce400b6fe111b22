package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodeOptions: a node is as the flags have it, and its Pods, too.
func TestNodeOptions(t *testing.T) {
	t.Parallel()
	resolvers := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolvers, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := newOwn(t, "--node-labels=disk=ssd,topology.kubernetes.io/zone=a", "--register-with-taints=gpu=true:NoSchedule", "--max-pods=3",
		"--system-reserved=cpu=100m,memory=200Mi", "--eviction-hard=memory.available<100Mi", "--resolv-conf="+resolvers, "--seccomp-default=false")
	nodes, err := o.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{LabelSelector: "disk=ssd,topology.kubernetes.io/zone=a"})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("nodes with the labels: %v, %v", nodes, err)
	}
	node := &nodes.Items[0]
	if !slices.ContainsFunc(node.Spec.Taints, func(x corev1.Taint) bool {
		return x.Key == "gpu" && x.Value == "true" && x.Effect == corev1.TaintEffectNoSchedule
	}) {
		t.Errorf("taints %v", node.Spec.Taints)
	}
	has, may := node.Status.Capacity, node.Status.Allocatable
	equal(t, "Pods", may.Pods().Value(), 3)
	equal(t, "processors kept, in thousandths", has.Cpu().MilliValue()-may.Cpu().MilliValue(), 100)
	equal(t, "bytes kept", has.Memory().Value()-may.Memory().Value(), (200+100)<<20)

	s := o.space()
	s.apply(script("repelled", "true", "", "") +
		script("tolerant", "exec sleep 1000000", "dnsPolicy: Default\ntolerations: [{operator: Exists}]", ""))
	s.ready("tolerant")
	contains(t, "its resolvers", s.kubectl("exec", "tolerant", "--", "cat", "/etc/resolv.conf"), "nameserver 192.0.2.53")
	equal(t, "seccomp", s.procStatus("tolerant")["Seccomp"], "0")
	s.event("repelled", "FailedScheduling", "1 node(s) had untolerated taint(s)")
}
