package loadbalancer

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/controltest"
)

// A Service has status and finalizer for as long as it has a load balancer, and is told of both; one of somebody else's class has what
// that one gives it.
func TestLifeOfALoadBalancer(t *testing.T) {
	w := controltest.Start(t, New)
	w.Watch(t, w.Informers.Core().V1().Services().Informer())
	w.Watch(t, w.Informers.Core().V1().Events().Informer())
	node, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := func(ip string) {
		t.Helper()
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
		if node, err = w.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	address("192.0.2.1")
	services := w.Client.CoreV1().Services(controltest.Namespace)
	create := func(name string, class *string, finalizers ...string) {
		t.Helper()
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer,
			LoadBalancerClass: class, Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := services.Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(name, merge string, sub ...string) {
		t.Helper()
		if _, err := services.Patch(t.Context(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}, sub...); err != nil {
			t.Fatal(err)
		}
	}
	await := func(when, ip string, finalizers ...string) {
		t.Helper()
		w.Await(t, when, func() bool {
			svc, err := services.Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, in := range svc.Status.LoadBalancer.Ingress {
				got += in.IP
			}
			return got == ip && slices.Equal(svc.Finalizers, finalizers)
		})
	}
	create("foreign", new("example.com/other"), finalizer)
	create("web", nil, "example.com/kept")
	await("it has a load balancer", "192.0.2.1", "example.com/kept", finalizer)
	patch("web", `{"status":{"loadBalancer":null}}`, "status")
	await("a status that is cleared comes back", "192.0.2.1", "example.com/kept", finalizer)
	address("192.0.2.2")
	await("it follows the node", "192.0.2.2", "example.com/kept", finalizer)
	patch("web", `{"spec":{"type":"ClusterIP"}}`)
	await("it is of another type", "", "example.com/kept")
	patch("web", `{"spec":{"type":"LoadBalancer"}}`)
	await("it is of the type again", "192.0.2.2", "example.com/kept", finalizer)
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("it is being deleted", "", "example.com/kept")
	patch("web", `{"metadata":{"finalizers":null}}`)

	foreign, err := services.Get(t.Context(), "foreign", metav1.GetOptions{})
	if err != nil || len(foreign.Status.LoadBalancer.Ingress) > 0 || !marked(foreign) {
		t.Errorf("somebody else's Service is %v, %v, %v", foreign.Finalizers, foreign.Status, err)
	}
	for reason, message := range map[string]string{
		"EnsuringLoadBalancer": "Ensuring load balancer", "EnsuredLoadBalancer": "Ensured load balancer", "UpdatedLoadBalancer": "Updated load balancer with new hosts",
		"DeletingLoadBalancer": "Deleting load balancer", "DeletedLoadBalancer": "Deleted load balancer",
	} {
		w.Await(t, fmt.Sprintf("event %s: %s", reason, message), func() bool {
			list, err := w.Client.CoreV1().Events(controltest.Namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
				return e.InvolvedObject.Name == "web" && e.Reason == reason && e.Message == message && e.Type == corev1.EventTypeNormal
			})
		})
	}
}
