// Package kubernetesservice keeps the Services that the cluster itself offers to Pods: "kubernetes" in namespace default,
// which leads to the API server, and "kube-dns" in kube-system, whose address the node answers itself.
package kubernetesservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
)

// Config says where the API server and the cluster's DNS are.
type Config struct {
	// Client must be allowed to write Services, Endpoints and EndpointSlices, whatever RBAC says: without these objects
	// nobody in a Pod could repair it.
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// API is where the API server listens, at an address that Pods can reach. ServiceIP is the address of the Service
	// that leads there; the serving certificate must name it.
	API       netip.AddrPort
	ServiceIP netip.Addr
	// DNS is the address of the cluster's DNS.
	DNS netip.Addr
	// Server names this server where there may be others: then the Service leads to all that are alive. All serve on the same
	// port. Optional: it leads to this one.
	Server string
	// Clock is the time; the real one if nil.
	Clock clock.WithTicker
}

// The names and labels are upstream's.
const (
	apiName = "kubernetes"
	dnsName = "kube-dns"
	apiPort = 443
	dnsPort = 53
)

type keeper struct {
	cfg  Config
	loop *engine.Loop
	// servers are the ones that are alive; nil: there is but this one.
	servers *servers
}

// New returns the controller. It watches the shared informers for its own objects and mends whatever others do to them.
func New(cfg Config) (engine.Runner, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	k := &keeper{cfg: cfg}
	k.loop = &engine.Loop{Name: "kubernetes-service", Sync: k.sync}
	queue := engine.OnAny(func(obj any) {
		name, err := cache.DeletionHandlingObjectToName(obj)
		if err == nil && (name == apiKey() || name == dnsKey()) {
			k.loop.Add(name)
		}
	})
	for _, informer := range []cache.SharedIndexInformer{
		cfg.Informers.Core().V1().Services().Informer(),
		cfg.Informers.Core().V1().Endpoints().Informer(),
		cfg.Informers.Discovery().V1().EndpointSlices().Informer(),
	} {
		r, err := informer.AddEventHandler(queue)
		if err != nil {
			return nil, fmt.Errorf("watch the cluster's own services: %w", err)
		}
		k.loop.Synced = append(k.loop.Synced, r.HasSyncedChecker())
	}
	k.loop.Add(apiKey())
	k.loop.Add(dnsKey())
	if cfg.Server == "" {
		return k.loop, nil
	}
	var err error
	k.servers, err = newServers(cfg, func() { k.loop.Add(apiKey()) })
	return k, err
}

// Run works until ctx ends: then this server leaves the others' company, and the Service with it.
func (k *keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.loop.Run(ctx) })
	group.Go(func() error { return k.servers.run(ctx) })
	return group.Wait()
}

// addresses are those of the servers that are alive, in order. After the time that is returned, zero for never, there may be fewer.
func (k *keeper) addresses() ([]netip.Addr, time.Duration) {
	if k.servers == nil {
		return []netip.Addr{k.cfg.API.Addr()}, 0
	}
	return k.servers.alive(k.cfg.Clock.Now())
}

func apiKey() cache.ObjectName {
	return cache.ObjectName{Namespace: metav1.NamespaceDefault, Name: apiName}
}

func dnsKey() cache.ObjectName {
	return cache.ObjectName{Namespace: metav1.NamespaceSystem, Name: dnsName}
}

func (k *keeper) sync(ctx context.Context, key cache.ObjectName) error {
	if key == dnsKey() {
		return k.service(ctx, k.dnsService())
	}
	addresses, again := k.addresses()
	if again > 0 {
		k.loop.AddAfter(key, again)
	}
	if len(addresses) == 0 {
		return k.service(ctx, k.apiService()) // this server has yet to make itself known
	}
	return errors.Join(k.service(ctx, k.apiService()), k.slice(ctx, addresses), k.endpoints(ctx, addresses))
}

func (k *keeper) apiService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: apiName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: k.cfg.ServiceIP.String(), Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: "https", Protocol: corev1.ProtocolTCP, Port: apiPort, TargetPort: intstr.FromInt32(int32(k.cfg.API.Port()))}},
		},
	}
}

func (k *keeper) dnsService() *corev1.Service {
	port := intstr.FromInt32(dnsPort)
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsName, Namespace: metav1.NamespaceSystem, Labels: map[string]string{
			"k8s-app": dnsName, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: k.cfg.DNS.String(), Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort, TargetPort: port},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort, TargetPort: port},
			},
		},
	}
}

// service makes the Service, or puts its ports right. Its address cannot change: a Service of that name with another one
// is somebody else's doing, which is told.
func (k *keeper) service(ctx context.Context, want *corev1.Service) error {
	api := k.cfg.Client.CoreV1().Services(want.Namespace)
	old, err := k.cfg.Informers.Core().V1().Services().Lister().Services(want.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsInvalid(err) {
			// One that the informer has yet to see has the address already, which is found before the name.
			if there, readErr := api.Get(ctx, want.Name, metav1.GetOptions{}); readErr == nil && there.Spec.ClusterIP == want.Spec.ClusterIP {
				return nil
			}
		}
	case err != nil:
	case old.Spec.ClusterIP != want.Spec.ClusterIP:
		return fmt.Errorf("keep service %s/%s: it has address %s instead of %s; delete it, it is made anew",
			want.Namespace, want.Name, old.Spec.ClusterIP, want.Spec.ClusterIP)
	case equality.Semantic.DeepEqual(old.Spec.Ports, want.Spec.Ports):
		return nil
	default:
		next := old.DeepCopy()
		next.Spec.Ports = want.Spec.Ports
		_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	return settled(err, "service", want)
}

// slice makes or mends the EndpointSlice of the API server.
func (k *keeper) slice(ctx context.Context, addresses []netip.Addr) error {
	family := discoveryv1.AddressTypeIPv4
	if k.cfg.API.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: apiName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: apiName}},
		AddressType: family,
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To("https"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(k.cfg.API.Port()))}},
	}
	for _, a := range addresses {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	api := k.cfg.Client.DiscoveryV1().EndpointSlices(want.Namespace)
	old, err := k.cfg.Informers.Discovery().V1().EndpointSlices().Lister().EndpointSlices(want.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err != nil:
	case old.AddressType != want.AddressType:
		err = api.Delete(ctx, want.Name, metav1.DeleteOptions{}) // the family is immutable; the deletion queues us again
	case maps.Equal(old.Labels, want.Labels) && equality.Semantic.DeepEqual(old.Endpoints, want.Endpoints) &&
		equality.Semantic.DeepEqual(old.Ports, want.Ports):
		return nil
	default:
		next := old.DeepCopy()
		next.Labels, next.Endpoints, next.Ports = want.Labels, want.Endpoints, want.Ports
		_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	return settled(err, "endpoint slice", want)
}

// endpoints makes or mends the Endpoints of the API server, which need no mirroring: the slice is there.
func (k *keeper) endpoints(ctx context.Context, addresses []netip.Addr) error {
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: apiName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets: []corev1.EndpointSubset{{
			Ports: []corev1.EndpointPort{{Name: "https", Port: int32(k.cfg.API.Port()), Protocol: corev1.ProtocolTCP}}}},
	}
	for _, a := range addresses {
		want.Subsets[0].Addresses = append(want.Subsets[0].Addresses, corev1.EndpointAddress{IP: a.String()})
	}
	api := k.cfg.Client.CoreV1().Endpoints(want.Namespace)
	old, err := k.cfg.Informers.Core().V1().Endpoints().Lister().Endpoints(want.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err != nil:
	case maps.Equal(old.Labels, want.Labels) && equality.Semantic.DeepEqual(old.Subsets, want.Subsets):
		return nil
	default:
		next := old.DeepCopy()
		next.Labels, next.Subsets = want.Labels, want.Subsets
		_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	return settled(err, "endpoints", want)
}

// settled words the error of a write. Where the cache lagged behind, the event that brings it up to date queues us again.
func settled(err error, kind string, obj metav1.Object) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("keep %s %s/%s: %w", kind, obj.GetNamespace(), obj.GetName(), err)
}
