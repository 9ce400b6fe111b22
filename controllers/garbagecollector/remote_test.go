package garbagecollector_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

// Objects of a server behind the API server own and are owned like all others: those of one that comes while the collector runs, and
// those that the collector finds as it starts.
func TestServerBehind(t *testing.T) {
	front := servertest.NewAuthority(t)
	server := servertest.Start(t, func(c *apiserver.Config) { c.FrontProxy = front.ClientCert(t, "front-proxy-client") })
	c, end := startOn(t, server)
	nameEarly(t, c)

	k := behind(t, server, c, front)
	k.ownAndAreOwned(c)
	ownedBy(t, c, "stays", k.put("stays", nil))

	end()
	again, _ := startOn(t, server)
	k.remove("stays")
	await(t, again, "stays", "deleted by another collector", isGone)
}

// behind has kind Thing of a server of its own served by server, and waits until it is. The client of things goes by way of server.
func behind(t *testing.T, server *servertest.Server, c kubernetes.Interface, front *servertest.Authority) things {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	other := servertest.Behind(t, "api", front)
	define(t, other)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api", Namespace: ns},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}
	if _, err := c.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	registrations, err := aggregatorclient.NewForConfig(server.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := registrations.APIServices().Create(ctx, &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.example.com"},
		Spec: apiregistrationv1.APIServiceSpec{
			Service: &apiregistrationv1.ServiceReference{Namespace: ns, Name: "api", Port: ptr.To(other.Port(t))},
			Group:   "example.com", Version: "v1beta1", CABundle: other.CA.CurrentCABundleContent(), GroupPriorityMinimum: 1, VersionPriority: 1,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := registrations.APIServices().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + s.Name, ResourceVersion: s.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if s = e.Object.(*apiregistrationv1.APIService); helper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available) {
			client, err := dynamic.NewForConfig(server.Config("admin"))
			if err != nil {
				t.Fatal(err)
			}
			return things{t: t, client: client, gvr: schema.GroupVersionResource{Group: "example.com", Version: "v1beta1", Resource: "things"}}
		}
	}
	t.Fatalf("the server behind is not available: %+v", s.Status)
	return things{}
}
