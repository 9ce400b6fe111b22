package admission_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeSlices: a node tells of its own devices, and gets at no others.
func nodeSlices(t *testing.T, c *cluster) {
	slice := func(name string, node *string) *resourcev1.ResourceSlice {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "d", Pool: resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}, NodeName: node}}
		if node == nil {
			s.Spec.AllNodes = ptr(true)
		}
		return s
	}
	everybodys := c.system.ResourceV1().ResourceSlices()
	_, err := everybodys.Create(ctx, slice("theirs", ptr("n2")), metav1.CreateOptions{})
	fine(t, err)
	_, err = everybodys.Create(ctx, slice("nobodys", nil), metav1.CreateOptions{})
	fine(t, err)

	slices := c.node(t, "n1").ResourceV1().ResourceSlices()
	_, err = slices.Create(ctx, slice("forged", ptr("n2")), metav1.CreateOptions{})
	refused(t, err, "can only create ResourceSlice with the same NodeName as the requesting node")
	_, err = slices.Create(ctx, slice("forged", nil), metav1.CreateOptions{})
	refused(t, err, "can only create ResourceSlice with the same NodeName as the requesting node")
	mine, err := slices.Create(ctx, slice("mine", ptr("n1")), metav1.CreateOptions{})
	fine(t, err)
	mine.Spec.Devices = []resourcev1.Device{{Name: "gpu"}}
	_, err = slices.Update(ctx, mine, metav1.UpdateOptions{})
	fine(t, err)
	for _, name := range []string{"theirs", "nobodys", "none"} {
		_, err = slices.Get(ctx, name, metav1.GetOptions{})
		refused(t, err, "no relationship found between node 'n1' and this object")
		refused(t, slices.Delete(ctx, name, metav1.DeleteOptions{}), "no relationship found between node 'n1' and this object")
	}

	const own = "spec.nodeName=n1"
	_, err = slices.List(ctx, metav1.ListOptions{})
	refused(t, err, "can only list/watch/deletecollection resourceslices with nodeName field selector")
	_, err = slices.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n2"})
	refused(t, err, "can only list/watch/deletecollection resourceslices with nodeName field selector")
	list, err := slices.List(ctx, metav1.ListOptions{FieldSelector: own})
	fine(t, err)
	if len(list.Items) != 1 || list.Items[0].Name != "mine" {
		t.Errorf("the node has the slices %v", list.Items)
	}
	fine(t, slices.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: own}))
	left, err := everybodys.List(ctx, metav1.ListOptions{})
	fine(t, err)
	if len(left.Items) != 2 {
		t.Errorf("the node left %v", left.Items)
	}

	// Claims are read through the Pods that name them.
	for _, name := range []string{"used", "unused"} {
		_, err = c.system.ResourceV1().ResourceClaims("default").Create(ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		fine(t, err)
	}
	c.pod(t, "has-devices", "n1", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: ptr("used")}}
	})
	claims := c.node(t, "n1").ResourceV1().ResourceClaims("default")
	_, err = claims.Get(ctx, "used", metav1.GetOptions{})
	fine(t, err)
	_, err = claims.Get(ctx, "unused", metav1.GetOptions{})
	refused(t, err, "no relationship found between node 'n1' and this object")
}
