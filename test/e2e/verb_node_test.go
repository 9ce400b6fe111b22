package e2e

import (
	"errors"
	"io/fs"
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

// TestRootDir: the kubelet is where the flag has it, also at the next start and on another file system, and is gone with the node.
func TestRootDir(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "kubelet")
	t.Cleanup(func() { // after the node is uninstalled
		if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the root directory: %v", err)
		}
	})
	o := newOwn(t, "--root-dir="+root)
	s := o.space()
	s.apply(script("keeper", "echo kept > /data/file; exec sleep 1000000", "volumes: [{name: data, emptyDir: {}}]",
		"volumeMounts: [{name: data, mountPath: /data, subPath: below}]"))
	pod := s.awaitPod("keeper", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	s.ready("keeper")
	file := filepath.Join(root, "pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/data/below/file")
	kept := func() {
		t.Helper()
		if b, err := os.ReadFile(file); err != nil || string(b) != "kept\n" {
			t.Errorf("the volume's file: %q, %v", b, err)
		}
	}
	s.until([]string{"exec", "keeper", "--", "cat", "/data/file"}, "written", func(r result) bool { return r.stdout == "kept\n" })
	kept()
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	o.restart()
	o.awaitKubelet()
	kept()
	equal(t, "the file in the Pod", s.kubectl("exec", "keeper", "--", "cat", "/data/file"), "kept\n")
	if _, err := os.Stat(filepath.Join(root, "plugins_registry")); err != nil {
		t.Errorf("where plugins register: %v", err)
	}
}
