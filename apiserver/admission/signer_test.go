package admission_test

import (
	"crypto/x509"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/internal/testca"
)

// mayOnSigner lets a user do something for signers of example.com, and all else that the kinds ask for.
func mayOnSigner(t *testing.T, c *cluster, user, verb, names string) {
	t.Helper()
	_, err := c.system.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{verb}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{names}},
		{Verbs: []string{"*"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles", "podcertificaterequests", "podcertificaterequests/status"}},
	}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user}}, metav1.CreateOptions{})
	fine(t, err)
}

func trustBundles(t *testing.T, c *cluster) {
	anchor, other := string(testca.New(t, "ca").PEM), string(testca.New(t, "ca").PEM)
	mayOnSigner(t, c, "attester", "attest", "example.com/*")
	api := c.as(t, "attester").CertificatesV1().ClusterTrustBundles()
	bundle := func(name, signer string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: anchor}}
	}
	settle(t, func() error {
		_, err := api.Create(ctx, bundle("example.com:foo:v1", "example.com/foo"), metav1.CreateOptions{})
		return err
	})
	_, err := api.Create(ctx, bundle("of-nobody", ""), metav1.CreateOptions{})
	fine(t, err)
	_, err = api.Create(ctx, bundle("example.org:foo:v1", "example.org/foo"), metav1.CreateOptions{})
	refused(t, err, `user not permitted to attest for signerName "example.org/foo"`)
	made, err := c.system.CertificatesV1().ClusterTrustBundles().Create(ctx, bundle("example.org:foo:v1", "example.org/foo"), metav1.CreateOptions{})
	fine(t, err)
	made.Spec.TrustBundle = other
	_, err = api.Update(ctx, made, metav1.UpdateOptions{})
	refused(t, err, `user not permitted to attest for signerName "example.org/foo"`)
	// Every service account may read them, and every node.
	for _, reader := range []string{"attester", "system:serviceaccount:default:default"} {
		k := c.as(t, reader, "system:serviceaccounts")
		list, err := k.CertificatesV1().ClusterTrustBundles().List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=example.org/foo"})
		if err != nil || len(list.Items) != 1 {
			t.Errorf("%s reads %v, %v", reader, list, err)
		}
	}
	_, err = c.node(t, "n1").CertificatesV1().ClusterTrustBundles().List(ctx, metav1.ListOptions{})
	fine(t, err)
}

func podCertificates(t *testing.T, c *cluster) {
	csr := testca.NewRequest(t, &x509.CertificateRequest{})
	account, err := c.system.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	fine(t, err)
	n1, err := c.system.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
	fine(t, err)
	pod := c.pod(t, "certified", "n1", func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "cert", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/foo", KeyType: "ED25519", KeyPath: "key"}}}}}})
	})
	elsewhere := c.pod(t, "elsewhere", "n2", nil)
	kubelet := c.node(t, "n1").CertificatesV1().PodCertificateRequests("default")
	request := func(change func(*certificatesv1.PodCertificateRequestSpec)) error {
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "req-"}, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/foo", PodName: "certified", PodUID: pod.UID, ServiceAccountName: "default", ServiceAccountUID: account.UID,
			NodeName: "n1", NodeUID: n1.UID, StubPKCS10Request: csr,
		}}
		change(&r.Spec)
		_, err := kubelet.Create(ctx, r, metav1.CreateOptions{})
		return err
	}
	type spec = certificatesv1.PodCertificateRequestSpec
	fine(t, request(func(*spec) {}))
	for why, change := range map[string]func(*spec){
		`which is not the requesting node "n1"`:                          func(s *spec) { s.NodeName = "n2" },
		"which differs from the node's UID":                              func(s *spec) { s.NodeUID = "guessed" },
		"which differs from running pod":                                 func(s *spec) { s.PodUID = "guessed" },
		"that differs from running pod":                                  func(s *spec) { s.ServiceAccountName = "builder" },
		"which differs from the service account's UID":                   func(s *spec) { s.ServiceAccountUID = "guessed" },
		`is not running on node "n1"`:                                    func(s *spec) { s.PodName, s.PodUID = "elsewhere", elsewhere.UID },
		`has no podCertificate volume source of signer "example.com/be"`: func(s *spec) { s.SignerName = "example.com/be" },
	} {
		refused(t, request(change), why)
	}
	// What it must know of the Pod's service account it may read.
	_, err = c.node(t, "n1").CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	fine(t, err)
	_, err = c.node(t, "n1").CoreV1().ServiceAccounts("default").Get(ctx, "builder", metav1.GetOptions{})
	refused(t, err, "no relationship found between node 'n1' and this object")
	// It sees its own requests, by a selector, and answers none.
	own := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "n1").String()}
	list, err := kubelet.List(ctx, own)
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("own requests: %v, %v", list, err)
	}
	_, err = kubelet.List(ctx, metav1.ListOptions{})
	refused(t, err, "can only get/list/watch podcertificaterequests with spec.nodeName=n1 field selector")
	deny := []byte(`{"status":{"conditions":[{"type":"Denied","status":"True","reason":"No","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	name := list.Items[0].Name
	_, err = kubelet.Patch(ctx, name, types.MergePatchType, deny, metav1.PatchOptions{}, "status")
	refused(t, err, "nodes may not access the status subresource")
	mayOnSigner(t, c, "signer", "sign", "example.com/foo")
	mayOnSigner(t, c, "no-signer", "sign", "example.com/bar")
	settle(t, func() error {
		_, err := c.as(t, "no-signer").CertificatesV1().PodCertificateRequests("default").Get(ctx, name, metav1.GetOptions{})
		return err
	})
	_, err = c.as(t, "no-signer").CertificatesV1().PodCertificateRequests("default").Patch(ctx, name, types.MergePatchType, deny, metav1.PatchOptions{}, "status")
	refused(t, err, `not permitted to sign requests with signerName "example.com/foo"`)
	settle(t, func() error {
		_, err := c.as(t, "signer").CertificatesV1().PodCertificateRequests("default").Patch(ctx, name, types.MergePatchType, deny, metav1.PatchOptions{}, "status")
		return err
	})
}
