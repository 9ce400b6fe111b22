package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/admission"
	"github.com/peapod/peapod/apiserver/authn"
	"github.com/peapod/peapod/apiserver/authz"
	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	flowobjects "github.com/peapod/peapod/apiserver/flowcontrol"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/version"
)

// control is the control plane's API server and what its other parts reach it by.
type control struct {
	// name is this server's; no other server of the cluster has it.
	name      string
	server    *apiserver.Server
	transport *inprocess.Transport
	keys      *pki.PKI
	ranges    instance.Ranges
	// claims are what several servers share; nil: this is the only one.
	claims apiserver.Claims
	// informers are shared by all components of the process: one copy of each object.
	informers informers.SharedInformerFactory
	// system acts as a member of system:masters, for what must not depend on RBAC.
	system kubernetes.Interface
	// bootstrapped is closed when the objects that every cluster has are there; informing when the informers have been started; started
	// when the parts that work on the API have been; served when no more requests are answered.
	bootstrapped, informing, started, served chan struct{}
}

// The identities of components in this process, as upstream's.
const (
	systemUser    = "system:apiserver"
	schedulerUser = "system:kube-scheduler"
)

func asUser(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

// asController is the service account in kube-system of the controller.
func asController(name string) user.Info {
	const namespace = "kube-system"
	return asUser(serviceaccount.MakeUsername(namespace, name), serviceaccount.MakeGroupNames(namespace)...)
}

// clientFor returns a client of the given identity that calls the API server in this process.
func (c *control) clientFor(as user.Info) (kubernetes.Interface, *rest.Config, error) {
	config := c.configFor(as)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make client of %s: %w", as.GetName(), err)
	}
	return client, config, nil
}

// configFor returns what such a client is made from.
func (c *control) configFor(as user.Info) *rest.Config {
	config := c.transport.Config(as)
	config.WarningHandler = rest.NoWarnings{} // they are for people: that Endpoints are deprecated, we know
	return config
}

// watcherFor returns a client as clientFor does, for informers: what it watches is the server's own objects, which nobody may change.
func (c *control) watcherFor(as user.Info) (kubernetes.Interface, error) {
	client, err := inprocess.NewClientset(c.configFor(as))
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", as.GetName(), err)
	}
	return client, nil
}

// listen opens the API's port.
func listen(s settled) (net.Listener, error) {
	address := netip.AddrPortFrom(s.host(), uint16(s.Port))
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return nil, fmt.Errorf("serve the API on %s: %w; free the port or choose another with --port", address, err)
	}
	return l, nil
}

// openKeys opens or makes the cluster's keys and certificates.
func openKeys(i instance.Instance, s settled, ranges instance.Ranges) (*pki.PKI, error) {
	own := netIPs(s.nodeIPs)
	ips := append([]net.IP{net.IPv4(127, 0, 0, 1), net.IP(apiServiceIP(ranges.Service).AsSlice())}, own...)
	if !s.bind.IsUnspecified() {
		ips = append(ips, net.IP(s.bind.AsSlice()))
	}
	ips = append(ips, s.addresses...)
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	return pki.Open(pki.Config{
		Dir: pkiDir(i), NodeName: s.NodeName, Names: append([]string{host, s.NodeName}, s.names...),
		IPs: ips, NodeNames: []string{host}, NodeIPs: own, ClusterDomain: clusterDomain,
	})
}

// clusterDomain is the DNS domain of the cluster.
const clusterDomain = "cluster.local"

// newControl composes the API server with its store, authentication, authorization and admission. Nothing is served yet.
func newControl(s settled, k keyed) (*control, error) {
	st, keys, ranges := k.store, k.keys, k.ranges
	c := &control{name: s.NodeName, claims: k.claims, transport: inprocess.NewTransport(), keys: keys, ranges: ranges,
		bootstrapped: make(chan struct{}), informing: make(chan struct{}), started: make(chan struct{}), served: make(chan struct{})}
	var err error
	as := asUser(systemUser, user.SystemPrivilegedGroup)
	if c.system, err = c.watcherFor(as); err != nil {
		return nil, err
	}
	free, err := dynamic.NewForConfig(c.configFor(as))
	if err != nil {
		return nil, fmt.Errorf("make client for objects of any kind: %w", err)
	}
	c.informers = informers.NewSharedInformerFactory(c.system, 0)
	issuer, err := authn.NewIssuer(authn.IssuerConfig{Keys: keys.TokenKeys()})
	if err != nil {
		return nil, err
	}
	who, err := authn.New(authn.Config{
		InProcess: c.transport.Authenticator(), ClientCA: keys.ClientCA(), Issuer: issuer, Informers: c.informers, Client: c.system,
		Others: k.guards.trust.Tokens, Anonymous: k.guards.trust.Anonymous,
	})
	if err != nil {
		return nil, err
	}
	may, err := authz.New(authz.Config{Informers: c.informers, Client: c.system, Served: served(), File: k.guards.authorizers})
	if err != nil {
		return nil, err
	}
	admit, err := admission.New(admission.Config{Client: c.system, Dynamic: free, Informers: c.informers, Authorizer: may, RBAC: may.RBAC(), Configuration: k.guards.admission, Ended: c.served})
	if err != nil {
		return nil, err
	}
	var fair flowcontrol.Interface
	if s.EnablePriorityAndFairness {
		fair = flowcontrol.New(c.informers, c.system.FlowcontrolV1(), s.MaxRequestsInflight+s.MaxMutatingRequestsInflight)
	}
	c.server, err = apiserver.New(apiserver.Config{
		Kinds: api.All(), Storage: st.Decorator(), Claims: k.claims, Listener: k.listener,
		ServingCert: keys.APIServer(), ClientCA: keys.ClientCA(), InProcess: c.transport,
		Authenticator: who.Request(), Audiences: issuer.DefaultAudiences(), Authorizer: may, Rules: may, Admission: admit, Tokens: issuer,
		Kubelet: &apiserver.KubeletClient{
			Cert: keys.APIServerKubeletClient(), CA: keys.ServerCA(), Metrics: keys.OnDemand(bootstrap.MetricsUser),
		},
		FrontProxy:   keys.FrontProxyClient(),
		ServiceCIDRs: ranges.Service,
		Gates:        c.gates(),
		Checks:       []healthz.HealthChecker{healthz.NamedCheck("etcd", func(*http.Request) error { return st.Ready() })},
		ReadyChecks:  []healthz.HealthChecker{healthz.NewInformerSyncHealthz(c.informers)},
		MaxReads:     s.MaxRequestsInflight, MaxWrites: s.MaxMutatingRequestsInflight, FlowControl: fair,
		Components: c.components(st.Ready),
		Audit:      k.guards.audit, Encryption: k.guards.encryption,
		Handlers: issuer.Handlers(), Version: version.Info(), Title: "Kubernetes",
	})
	if err != nil {
		return nil, fmt.Errorf("make API server: %w", err)
	}
	return c, nil
}

// gates are what the server waits for before it says that it is well, by the names that those have upstream who do the same there.
func (c *control) gates() []apiserver.Gate {
	return []apiserver.Gate{
		{Name: "poststarthook/generic-apiserver-start-informers", Open: c.informing},
		// All that plugins of admission need is in the informers.
		{Name: "poststarthook/start-apiserver-admission-initializer", Open: c.informing},
		{Name: "poststarthook/start-system-namespaces-controller", Open: c.bootstrapped},
		{Name: "poststarthook/scheduling/bootstrap-system-priority-classes", Open: c.bootstrapped},
		{Name: "poststarthook/rbac/bootstrap-roles", Open: c.bootstrapped},
		// The Service of the API, and the config map that says whom servers behind this one believe.
		{Name: "poststarthook/bootstrap-controller", Open: c.started},
		{Name: "poststarthook/start-cluster-authentication-info-controller", Open: c.started},
	}
}

// awaitBootstrap waits until the objects that every cluster has are there; false if ctx ended first.
func (c *control) awaitBootstrap(ctx context.Context) bool {
	select {
	case <-c.bootstrapped:
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitNode waits until the node is Ready, or ctx ends.
func (c *control) awaitNode(ctx context.Context, name string) error {
	ready := make(chan struct{})
	var once sync.Once
	informer := c.informers.Core().V1().Nodes().Informer()
	handle, err := informer.AddEventHandler(engine.OnSet(func(obj any) {
		n, ok := obj.(*v1.Node)
		if ok && n.Name == name && slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
			return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
		}) {
			once.Do(func() { close(ready) })
		}
	}))
	if err != nil {
		return fmt.Errorf("wait for node %s: %w", name, err)
	}
	select {
	case <-ready:
	case <-ctx.Done():
	}
	return informer.RemoveEventHandler(handle)
}

// startInformers starts those that have been asked for since the others were, until ctx ends.
func (c *control) startInformers(ctx context.Context) error {
	c.informers.StartWithContext(ctx)
	<-ctx.Done()
	return nil
}

// makeFlowControl makes the objects of flow control. Where it is off they are for clients to see, and where it is on all requests are
// served alike without them: so nobody waits for them (10 ms at the first start), and what is missing is made at the next start.
func (c *control) makeFlowControl(ctx context.Context) {
	if err := flowobjects.Reconcile(ctx, c.system); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Flow schemas and priority levels are not as they should be")
	}
}

// run serves the API and makes what every cluster has, until ctx ends.
func (c *control) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(c.informing)
		c.informers.StartWithContext(ctx)
	}()
	made := make(chan error, 1)
	go func() {
		err := bootstrapObjects(ctx, c.system)
		if err == nil {
			err = publishNodeConfig(ctx, c.system, c.nodeConfig())
		}
		if err == nil {
			err = bootstrap.Await(ctx, c.informers)
		}
		if err == nil {
			close(c.bootstrapped)
			c.makeFlowControl(ctx)
		} else {
			cancel()
		}
		made <- err
	}()
	err := c.server.Run(ctx)
	close(c.served)
	cancel()
	<-c.informing
	c.informers.Shutdown()
	if bootErr := <-made; bootErr != nil && !errors.Is(bootErr, context.Canceled) {
		err = errors.Join(err, bootErr)
	}
	return err
}
