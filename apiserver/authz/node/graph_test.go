package node

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

func pod(name, node string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa"}}
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return p
}

func volumeOf(name, claim, secret string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: claim},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: secret}}}}}
}

// TestGraph follows what nodes have to do with as objects come, change and go.
func TestGraph(t *testing.T) {
	g := NewGraph()
	check := func(step string, want bool, node string, o object) {
		t.Helper()
		if got, _ := g.related(node, o); got != want {
			t.Errorf("%s: node %s and %v: %v, want %v", step, node, o, got, want)
		}
	}
	sa, claim := object{serviceAccounts, "ns", "sa"}, object{persistentVolumeClaims, "ns", "c"}
	pv, secret := object{persistentVolumes, "", "pv"}, object{secrets, "storage", "s"}

	g.SetPod(pod("p", "", "c"))
	check("unbound", false, "n1", claim)
	g.SetPod(pod("p", "n1", "c"))
	check("bound", true, "n1", claim)
	check("bound", true, "n1", object{pods, "ns", "p"})
	check("bound", false, "n2", claim)
	check("bound", false, "n1", object{persistentVolumeClaims, "other", "c"})
	check("no volume yet", false, "n1", pv)
	g.SetVolume(volumeOf("pv", "c", "s"))
	check("volume", true, "n1", pv)
	check("volume", true, "n1", secret)
	check("volume", false, "n2", secret)
	check("nothing", false, "", object{persistentVolumes, "", "unknown"})
	g.SetVolume(volumeOf("pv", "c", "s2"))
	check("other secret", false, "n1", secret)

	// Two Pods of a node have the account; it stays with the node until both have gone.
	g.SetPod(pod("q", "n1"))
	g.DeletePod(pod("p", "n1"))
	check("one left", true, "n1", sa)
	check("claim gone", false, "n1", claim)
	check("volume gone", false, "n1", pv)
	// A Pod of the same name on another node.
	g.SetPod(pod("q", "n2"))
	check("moved", false, "n1", sa)
	check("moved", true, "n2", sa)
	g.DeletePod(pod("q", "n2"))
	check("gone", false, "n2", sa)
	g.DeletePod(pod("q", "n2"))
	if len(g.nodes) != 0 || len(g.pods) != 0 {
		t.Errorf("something is left of Pods that have gone: %v, %v", g.nodes, g.pods)
	}
	g.DeleteVolume(volumeOf("pv", "c", "s2"))
	if len(g.volumes) != 0 || len(g.volumesOf) != 0 {
		t.Errorf("something is left of volumes that have gone: %v, %v", g.volumes, g.volumesOf)
	}

	mirror := pod("m", "n1", "c")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
	g.SetPod(mirror)
	check("mirror", true, "n1", object{pods, "ns", "m"})
	check("mirror", false, "n1", claim)

	g.SetAttachment(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}})
	check("attachment", true, "n1", object{volumeAttachments, "", "a"})
	g.DeleteAttachment(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	check("attachment gone", false, "n1", object{volumeAttachments, "", "a"})
}

// TestPatience: a node that is ahead of the informer waits for it, and not longer than it must.
func TestPatience(t *testing.T) {
	g := NewGraph()
	claim := object{persistentVolumeClaims, "ns", "c"}
	answer := make(chan bool)
	go func() { answer <- g.Related(context.Background(), "n1", claim, time.Minute) }()
	g.SetPod(pod("other", "n1"))
	g.SetPod(pod("p", "n1", "c"))
	if !<-answer {
		t.Error("no, although the Pod has come")
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { answer <- g.Related(ctx, "n2", claim, time.Minute) }()
	cancel()
	if <-answer {
		t.Error("yes, of another node")
	}
	if g.Related(context.Background(), "n2", claim, time.Microsecond) {
		t.Error("yes, after patience")
	}
}

// TestReferences: every place in which a Pod names an object of its namespace.
func TestReferences(t *testing.T) {
	from := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from-s"}}},
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from-c"}}}}
	env := func(name string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "A", Value: "b"},
			{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name + "-s"}}}},
			{Name: "C", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name + "-c"}}}}}
	}
	claim := "rc"
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		ServiceAccountName:  "sa",
		ImagePullSecrets:    []corev1.LocalObjectReference{{Name: "pull"}},
		InitContainers:      []corev1.Container{{Env: env("init")}},
		Containers:          []corev1.Container{{Env: env("main"), EnvFrom: from}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: env("debug")}}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol-s"}}},
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "vol-c"}}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj-s"}}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "proj-c"}}}}}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: "csi-s"}}}},
		},
		ResourceClaims: []corev1.PodResourceClaim{{Name: "r", ResourceClaimName: &claim}},
	}}
	want := map[string]bool{}
	for _, s := range []string{"serviceaccounts sa", "secrets pull", "secrets init-s", "configmaps init-c", "secrets main-s", "configmaps main-c",
		"secrets from-s", "configmaps from-c", "secrets debug-s", "configmaps debug-c", "secrets vol-s", "configmaps vol-c", "secrets proj-s",
		"configmaps proj-c", "persistentvolumeclaims p-e", "secrets csi-s", "resourceclaims rc"} {
		want[s] = true
	}
	for resource, name := range References(p) {
		if s := resource + " " + name; !want[s] {
			t.Errorf("unexpected %s", s)
		} else {
			delete(want, s)
		}
	}
	for s := range want {
		t.Errorf("missing %s", s)
	}
	n := 0
	for range References(p) {
		n++
		break
	}
	if n != 1 {
		t.Error("the loop went on after it was left")
	}
}

// TestIdentity: a node is who has both the name and the group.
func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		name, group, node string
		is                bool
	}{
		{"system:node:n1", user.NodesGroup, "n1", true}, {"system:node:", user.NodesGroup, "", true},
		{"system:node:n1", "devs", "", false}, {"n1", user.NodesGroup, "", false},
	} {
		if node, is := Identity(&user.DefaultInfo{Name: c.name, Groups: []string{c.group}}); node != c.node || is != c.is {
			t.Errorf("%s of %s: %q, %v", c.name, c.group, node, is)
		}
	}
}
