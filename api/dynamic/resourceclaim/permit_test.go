package resourceclaim_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

const ns = "default"

// door allows everything but what is for drivers and schedulers, of which it allows what is listed: "VERB NAMESPACE/NAME SUBRESOURCE".
type door struct {
	mu   sync.Mutex
	open map[string]bool
}

func (d *door) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if sub := a.GetSubresource(); sub != resourcev1.SubresourceBinding && sub != resourcev1.SubresourceDriver {
		return authorizer.DecisionAllow, "", nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[a.GetVerb()+" "+a.GetNamespace()+"/"+a.GetName()+" "+a.GetSubresource()] {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "closed", nil
}

func (d *door) allow(what ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = map[string]bool{}
	for _, w := range what {
		d.open[w] = true
	}
}

func start(t *testing.T) (*servertest.Server, *door) {
	t.Helper()
	d := &door{}
	return servertest.Start(t, func(c *apiserver.Config) { c.Authorizer = authorizer.AuthorizerFunc(d.authorize) }), d
}

func request(admin bool) resourcev1.ResourceClaimSpec {
	e := &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}
	if admin {
		e.AdminAccess = ptr.To(true)
	}
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "a", Exactly: e}}}}
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

func TestAdministratorsAccessIsForLabelledNamespaces(t *testing.T) {
	s, d := start(t)
	client := s.Client(t)
	claims, templates := client.ResourceV1().ResourceClaims(ns), client.ResourceV1().ResourceClaimTemplates(ns)
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: request(true)}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: request(true)}}
	const want = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	_, err := claims.Create(t.Context(), claim, metav1.CreateOptions{})
	refused(t, err, want)
	_, err = templates.Create(t.Context(), template, metav1.CreateOptions{})
	refused(t, err, want)

	plain, err := claims.Create(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: request(false)}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.allow("update / binding")
	plain.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "a", Driver: "d", Pool: "p", Device: "x", AdminAccess: ptr.To(true)}}}}
	_, err = claims.UpdateStatus(t.Context(), plain, metav1.UpdateOptions{})
	refused(t, err, "status.allocation.devices.results[0].adminAccess: Forbidden")

	namespace, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	namespace.Labels[resourcev1.DRAAdminNamespaceLabelKey] = "true"
	if _, err = client.CoreV1().Namespaces().Update(t.Context(), namespace, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = claims.Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err = templates.Create(t.Context(), template, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err = claims.UpdateStatus(t.Context(), plain, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPartsOfTheStatusAreForThoseTheyAreFor(t *testing.T) {
	s, d := start(t)
	// A driver, on a node.
	as := func(node string) kubernetes.Interface {
		client, err := kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "system:serviceaccount:kube-system:driver",
			Groups: []string{user.SystemPrivilegedGroup}, Extra: map[string][]string{serviceaccount.NodeNameKey: {node}}}))
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	claims := as("node-1").ResourceV1().ResourceClaims(ns)
	claim, err := claims.Create(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: request(false)}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim.Status.Allocation = &resourcev1.AllocationResult{
		Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "a", Driver: "d", Pool: "p", Device: "x"}}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"node-1"}}}}}}}
	_, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
	refused(t, err, `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: `)

	d.allow("update / binding")
	if claim, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "x"}}
	_, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
	refused(t, err, `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[associated-node:update arbitrary-node:update]" permission: `)

	// Who may write for devices of his own node may not for those of another.
	d.allow("associated-node:update default/d driver")
	_, err = as("node-2").ResourceV1().ResourceClaims(ns).UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
	refused(t, err, `verb="[arbitrary-node:update]" permission`)
	if claim, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Neither is there anything to ask about a status that stays.
	d.allow()
	if _, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	claim.Status.Devices = nil
	_, err = claims.UpdateStatus(t.Context(), claim, metav1.UpdateOptions{})
	refused(t, err, "status.devices: Forbidden")
	d.allow("arbitrary-node:update default/d driver")
	if _, err = as("node-2").ResourceV1().ResourceClaims(ns).UpdateStatus(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
}
