package admission_test

import (
	"errors"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

func nodeReads(t *testing.T, c *cluster) {
	for _, name := range []string{"mine", "theirs", "nobodys"} {
		_, err := c.system.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		fine(t, err)
	}
	uses := func(secret string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
		}
	}
	n1 := c.node(t, "n1")
	// At once: the kubelet reads what a Pod needs at the moment when it is bound.
	c.pod(t, "reads-mine", "n1", uses("mine"))
	_, err := n1.CoreV1().Secrets("default").Get(ctx, "mine", metav1.GetOptions{})
	fine(t, err)
	c.pod(t, "reads-theirs", "n2", uses("theirs"))
	_, err = n1.CoreV1().Secrets("default").Get(ctx, "theirs", metav1.GetOptions{})
	refused(t, err, "no relationship found between node 'n1' and this object")
	_, err = n1.CoreV1().Secrets("default").Get(ctx, "nobodys", metav1.GetOptions{})
	refused(t, err, "no relationship found")
	_, err = n1.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	refused(t, err, "No Object name found")
	_, err = n1.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=mine"})
	fine(t, err)
	_, err = n1.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	refused(t, err, "can only list/watch pods with spec.nodeName field selector")
	_, err = n1.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n2"})
	refused(t, err, "can only list/watch pods with spec.nodeName field selector")
	_, err = n1.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	fine(t, err)
	_, err = n1.CoreV1().Pods("default").Get(ctx, "reads-theirs", metav1.GetOptions{})
	refused(t, err, "no relationship found")
	_, err = n1.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	refused(t, err, "node 'n1' cannot read all nodes, only its own Node object")
	_, err = n1.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	fine(t, err)
	_, err = n1.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	refused(t, err, "clusterroles")
	// A Pod that goes takes with it what its node may read.
	fine(t, c.system.CoreV1().Pods("default").Delete(ctx, "reads-mine", metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}))
	settle(t, func() error {
		if _, err := n1.CoreV1().Secrets("default").Get(ctx, "mine", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			return errors.New("the node still reads the secret of a Pod that has gone")
		}
		return nil
	})
}

func nodeWrites(t *testing.T, c *cluster) {
	n1 := c.node(t, "n1")
	nodes := n1.CoreV1().Nodes()
	_, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{})
	refused(t, err, `node "n1" is not allowed to modify node "n2"`)
	_, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1",
		Labels: map[string]string{"node-restriction.kubernetes.io/a": "b", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "linux", "own": "1"}}}, metav1.CreateOptions{})
	refused(t, err, `node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane`)
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1",
		Labels: map[string]string{"kubernetes.io/os": "linux", "own": "1"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("a new node has the taints %v", node.Spec.Taints)
	}
	change := func(f func(*corev1.Node)) error {
		n := node.DeepCopy()
		n.ResourceVersion = ""
		f(n)
		_, err := nodes.Update(ctx, n, metav1.UpdateOptions{})
		return err
	}
	refused(t, change(func(n *corev1.Node) { n.Spec.Taints = nil }), `node "n1" is not allowed to modify taints`)
	refused(t, change(func(n *corev1.Node) { n.Labels["a.k8s.io/x"] = "y" }), "is not allowed to modify labels: a.k8s.io/x")
	refused(t, change(func(n *corev1.Node) {
		n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "u"}}
	}), `node "n1" is not allowed to modify ownerReferences`)
	fine(t, change(func(n *corev1.Node) { delete(n.Labels, "own") }))
	_, err = c.node(t, "n2").CoreV1().Nodes().Patch(ctx, "n1", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	refused(t, err, `node "n2" is not allowed to modify node "n1"`)
	_, err = c.node(t, "n2").CoreV1().Nodes().PatchStatus(ctx, "n1", []byte(`{"status":{"phase":"Running"}}`))
	refused(t, err, `node "n2" is not allowed to modify node "n1"`)
	lease := func(k kubernetes.Interface, namespace, name string) error {
		_, err := k.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	fine(t, lease(n1, "kube-node-lease", "n1"))
	refused(t, lease(n1, "kube-node-lease", "n2"), "can only access node lease with the same name as the requesting node")
	refused(t, lease(n1, "kube-system", "n1"), `can only access leases in the "kube-node-lease" system namespace`)

	theirs := c.pod(t, "theirs", "n2", nil)
	refused(t, n1.CoreV1().Pods("default").Delete(ctx, "theirs", metav1.DeleteOptions{}), `node "n1" can only delete pods with spec.nodeName set to itself`)
	_, err = n1.CoreV1().Pods("default").UpdateStatus(ctx, theirs, metav1.UpdateOptions{})
	refused(t, err, `node "n1" can only update pod status for pods with spec.nodeName set to itself`)
	refused(t, n1.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: "default"}}),
		"node n1 can only evict pods with spec.nodeName set to itself")
	mine := c.pod(t, "mine", "n1", nil)
	mine.Labels = map[string]string{"app": "web"}
	_, err = n1.CoreV1().Pods("default").UpdateStatus(ctx, mine, metav1.UpdateOptions{})
	refused(t, err, `node "n1" cannot update labels through pod status`)
	mine.Labels = nil
	mine.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "a", ResourceClaimName: ptr("b")}}
	_, err = n1.CoreV1().Pods("default").UpdateStatus(ctx, mine, metav1.UpdateOptions{})
	refused(t, err, `node "n1" cannot update resource claim statues`)
	_, err = n1.CoreV1().Pods("default").Patch(ctx, "mine", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	refused(t, err, "cannot patch resource \"pods\"")
}

func nodeTokens(t *testing.T, c *cluster) {
	n1 := c.node(t, "n1")
	mine, theirs := c.pod(t, "tokens-mine", "n1", nil), c.pod(t, "tokens-theirs", "n2", nil)
	ask := func(account string, pod *corev1.Pod, audiences ...string) error {
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		if pod != nil {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
		}
		_, err := n1.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, r, metav1.CreateOptions{})
		return err
	}
	fine(t, ask("default", mine))
	refused(t, ask("default", nil), "node requested token not bound to a pod")
	refused(t, ask("default", theirs), "node requested token bound to a pod scheduled on a different node")
	refused(t, ask("builder", mine), "no relationship found between node 'n1' and this object")
	refused(t, ask("default", mine, "vault"), `audience "vault" not found in pod spec volume`)
	refused(t, ask("default", mine, "a", "b"), "node may only request 0 or 1 audiences")
	old := mine.DeepCopy()
	old.UID = "earlier"
	refused(t, ask("default", old), "the UID in the bound object reference (earlier) does not match the UID in record")
	old.UID = ""
	refused(t, ask("default", old), "node requested token with a pod binding without a uid")
}

func mirrorPods(t *testing.T, c *cluster) {
	n1 := c.node(t, "n1")
	node, err := c.system.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(change func(*corev1.Pod)) error {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: node.UID, Controller: ptr(true)}}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		change(p)
		_, err := n1.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		return err
	}
	volume := func(s corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: s}} }
	}
	for text, change := range map[string]func(*corev1.Pod){
		`pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`: func(p *corev1.Pod) { p.Annotations = nil },
		`can only create pods with spec.nodeName set to itself`:                                             func(p *corev1.Pod) { p.Spec.NodeName = "n2" },
		`can only create pods with an owner reference set to itself`:                                        func(p *corev1.Pod) { p.OwnerReferences = nil },
		`can only create pods with a controller owner reference set to itself`:                              func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil },
		`node n1 UID mismatch: expected u got`:                                                              func(p *corev1.Pod) { p.OwnerReferences[0].UID = "u" },
		`can not create pods that reference a service account`:                                              func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" },
		`can not create pods that reference secrets`:                                                        volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}),
		`can not create pods that reference persistentvolumeclaims`:                                         volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}),
	} {
		refused(t, create(change), text)
	}
	fine(t, create(func(*corev1.Pod) {}))
	made, err := c.system.CoreV1().Pods("default").Get(ctx, "mirror", metav1.GetOptions{})
	fine(t, err)
	if made.Spec.ServiceAccountName != "" || len(made.Spec.Volumes) != 0 {
		t.Errorf("a mirror Pod was given an account: %+v", made.Spec)
	}
}
