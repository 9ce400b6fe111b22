package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/aggregation"
	"github.com/peapod/peapod/apiserver/clusterip"
	"github.com/peapod/peapod/apiserver/customresource"
	"github.com/peapod/peapod/apiserver/gather"
	"github.com/peapod/peapod/apiserver/openapi"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/apiserver/registry"
	"github.com/peapod/peapod/apiserver/router"
	"github.com/peapod/peapod/apiserver/usage"
	"github.com/peapod/peapod/internal/linger"
)

// Server is the API server.
type Server struct {
	config   Config
	scheme   *runtime.Scheme
	codecs   serializer.CodecFactory
	docs     *openapi.Documents
	env      resource.Env
	ips      *clusterip.Allocator
	storages []*registry.Storage
	generic  *genericapiserver.GenericAPIServer
	custom   *customresource.Server
	// aggregation is nil where there are no APIServices.
	aggregation *aggregation.Aggregator
	// counts is nil without flow control.
	counts *objectCounts
	// usage is nil where no kubelets are measured.
	usage *usage.Sampler

	// installed is closed when every path is served; restored when addresses and ports in use are known, and mended from then on;
	// aggregating when servers behind this one are looked after.
	installed, restored, aggregating chan struct{}
	accepting                        chan struct{}
	ready                            chan struct{}
}

// New makes a server that is ready to run. It reads and writes nothing.
func New(config Config) (*Server, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("configure API server: %w", err)
	}
	s := &Server{config: config, installed: make(chan struct{}), restored: make(chan struct{}), aggregating: make(chan struct{}),
		accepting: make(chan struct{}), ready: make(chan struct{})}
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("set up API server: %w", err)
	}
	return s, nil
}

func (s *Server) build() error {
	var err error
	if s.config.FlowControl != nil {
		s.counts = &objectCounts{counts: map[string]*objectCount{}}
		s.config.Storage = s.counts.decorate(s.config.Storage)
	}
	if s.scheme, err = newScheme(s.config.Kinds); err != nil {
		return err
	}
	s.codecs = serializer.NewCodecFactory(s.scheme)
	s.docs = openapi.New(openapi.Config{
		Title:   s.config.Title,
		Version: s.config.Version.GitVersion,
		Scheme:  externalScheme,
	})
	if s.env, err = s.environment(); err != nil {
		return err
	}
	generic := s.genericConfig()
	custom, err := s.customResources(generic.AggregatedDiscoveryGroupManager)
	if err != nil {
		return err
	}
	s.custom = custom
	s.config.Gates = append(slices.Clone(s.config.Gates), Gate{Name: "poststarthook/crd-informer-synced", Open: custom.Defined().Known()},
		// What is stored has been read, by then.
		Gate{Name: "poststarthook/storage-readiness", Open: s.restored},
		Gate{Name: "poststarthook/start-service-ip-repair-controllers", Open: s.restored})
	if err := s.aggregate(generic); err != nil {
		return err
	}
	keys := s.config.Encryption.Checks()
	generic.HealthzChecks, generic.ReadyzChecks = append(generic.HealthzChecks, keys...), append(generic.ReadyzChecks, keys...)
	s.generic, err = generic.Complete(nil).New("peapod", custom.Delegate())
	if err != nil {
		return err
	}
	s.generic.ShutdownTimeout = s.config.ShutdownGrace
	if err := s.install(custom); err != nil {
		return err
	}
	mux := s.generic.Handler.NonGoRestfulMux
	for path, h := range s.config.Handlers {
		mux.Handle(path, h)
	}
	s.docs.Install(mux, custom.Defined(), s.elsewhere, s.generic.Handler.GoRestfulContainer, custom.Delegate().Handler.GoRestfulContainer)
	router.Share(s.generic.Handler.GoRestfulContainer)
	s.generic.Handler.GoRestfulContainer.Router(&router.Router{})
	return s.addChecks()
}

// genericConfig trims k8s.io/apiserver to what is wanted: no flow control (180-290 us a request) unless asked for, no eager OpenAPI
// (280 ms at start), no client to itself over the network, nothing that wakes up when idle.
func (s *Server) genericConfig() *genericapiserver.Config {
	c := genericapiserver.NewConfig(s.codecs)
	c.SecureServing = &genericapiserver.SecureServingInfo{
		Listener: &firstAccept{Listener: linger.Listen(s.config.Listener), accepting: s.accepting},
		Cert:     s.config.ServingCert,
		ClientCA: s.config.ClientCA,
	}
	c.ExternalAddress = s.config.ExternalAddress
	c.EffectiveVersion = versionOf{compatibility.DefaultBuildEffectiveVersion(), s.config.Version}
	c.LoopbackClientConfig = s.config.InProcess.Config(&user.DefaultInfo{
		Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated},
	})
	c.Authentication.Authenticator = deepAuthenticator(s.config.Authenticator)
	c.Authentication.APIAudiences = s.config.Audiences
	c.Authorization.Authorizer = s.config.Authorizer
	c.RuleResolver = s.config.Rules
	c.AdmissionControl = s.config.Admission
	c.EquivalentResourceRegistry = runtime.NewEquivalentResourceRegistryWithIdentity(s.sameObjects)
	c.SkipOpenAPIInstallation = true
	c.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		api = gather.Lists(api, s.codecs.SupportedMediaTypes())
		api = s.custom.Metadata(api)
		if s.aggregation != nil {
			api = s.aggregation.Wrap(api)
		}
		return deepHandler(s.handlerChain(api, c))
	}
	if a := s.config.Audit; a != nil {
		c.AuditPolicyRuleEvaluator, c.AuditBackend = a.Policy, a.Backend
	}
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = s.config.MaxReads, s.config.MaxWrites
	c.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	// How long watches get to end when the server stops, before they are cut off.
	c.ShutdownWatchTerminationGracePeriod = time.Second
	// Each of these wakes up every few seconds for a gauge that nothing here reads.
	c.DisabledPostStartHooks = sets.NewString("max-in-flight-filter", "priority-and-fairness-filter")
	c.StorageObjectCountTracker = nil
	if s.config.FlowControl != nil {
		c.FlowControl, c.StorageObjectCountTracker = s.config.FlowControl, s.counts
	}
	c.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	return c
}

// Ready is closed when the server accepts connections and every gate is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Env is what the kinds are offered.
func (s *Server) Env() resource.Env { return s.env }

// Run serves until ctx ends: then requests in flight are finished, watches are ended and Run returns. It can be called
// once.
func (s *Server) Run(ctx context.Context) error {
	mend, err := s.restore(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("start API server: %w", err), s.config.Listener.Close())
	}
	prepared := s.generic.PrepareRun()
	s.config.InProcess.Bind(s.generic.Handler)
	customStopped := s.custom.Start(ctx)

	watchReady, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { s.awaitInstalled(watchReady) })
	done.Go(func() { s.awaitReady(watchReady) })
	done.Go(func() { mend(watchReady) })
	close(s.restored)
	if s.aggregation != nil {
		done.Go(func() { s.aggregation.Run(watchReady) })
		close(s.aggregating)
	}
	err = prepared.RunWithContext(ctx)
	stop()
	done.Wait()
	customStopped()
	if nodes, ok := s.env.Nodes.(*nodeConnector); ok {
		nodes.CloseIdle()
	}
	if s.usage != nil {
		s.usage.Close()
	}
	if err != nil {
		return fmt.Errorf("run API server: %w", err)
	}
	return nil
}

func (s *Server) awaitReady(ctx context.Context) {
	wait := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if !wait(s.accepting) {
		return
	}
	for _, g := range s.config.Gates {
		if !wait(g.Open) {
			return
		}
	}
	if s.custom.AwaitStarted(ctx) == nil {
		close(s.ready)
	}
}

func (s *Server) addChecks() error {
	for _, g := range s.config.Gates {
		check := healthz.NamedCheck(g.Name, func(*http.Request) error {
			select {
			case <-g.Open:
				return nil
			default:
				return errors.New("not finished")
			}
		})
		if err := s.generic.AddHealthChecks(check); err != nil {
			return fmt.Errorf("add gate %s: %w", g.Name, err)
		}
	}
	if err := errors.Join(s.generic.AddHealthChecks(s.config.Checks...), s.generic.AddReadyzChecks(s.config.ReadyChecks...)); err != nil {
		return fmt.Errorf("add health checks: %w", err)
	}
	return nil
}

// environment makes what the kinds are offered. Its Store finds the registries once they are built.
func (s *Server) environment() (resource.Env, error) {
	env := resource.Env{
		Store:         s.store,
		Authenticator: s.config.Authenticator,
		Authorizer:    s.config.Authorizer,
		Rules:         s.config.Rules,
		Tokens:        s.config.Tokens,
		Components:    s.config.Components,
	}
	var err error
	if s.ips, err = clusterip.New(s.config.ServiceCIDRs, s.store); err != nil {
		return env, err
	}
	env.ServiceIPs, env.NodePorts = s.ips, allocator(s.config.NodePorts, s.config.Claims)
	if s.config.Kubelet != nil {
		k := s.config.Kubelet
		env.Nodes = newNodeConnector(k.CA, pki.ClientCertificate(k.Cert), s.store)
		if k.Metrics != nil {
			if s.usage, err = s.newSampler(k); err != nil {
				return env, err
			}
			env.Usage = s.usage
		}
	}
	return env, nil
}

func (s *Server) store(gr schema.GroupResource) *genericregistry.Store {
	for _, st := range s.storages {
		if st.Declaration.Resource() == gr {
			return st.Parent.Main
		}
	}
	return nil
}

// firstAccept tells when the server first waits for connections.
type firstAccept struct {
	net.Listener
	once      sync.Once
	accepting chan struct{}
}

func (l *firstAccept) Accept() (net.Conn, error) {
	l.once.Do(func() { close(l.accepting) })
	return l.Listener.Accept()
}

// versionOf answers /version with what the configuration says.
type versionOf struct {
	basecompatibility.EffectiveVersion
	info version.Info
}

func (v versionOf) Info() *version.Info {
	info := v.info
	return &info
}
