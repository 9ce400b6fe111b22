// Package apiserver serves the kinds that it is given as a Kubernetes API: it composes k8s.io/apiserver with storage,
// access control and OpenAPI that are passed in or lie in the folders beneath. It knows no kind by name, but for Nodes,
// through which it reaches kubelets.
package apiserver

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/auditing"
	"github.com/peapod/peapod/apiserver/encryption"
	"github.com/peapod/peapod/apiserver/inprocess"
)

// Config is everything that a Server is made from. What is not marked optional must be set.
type Config struct {
	// Kinds are the kinds to serve. An alias comes after what it stands for.
	Kinds []*resource.Declaration
	// Storage is where objects are kept.
	Storage generic.StorageDecorator

	// Listener accepts the connections; the Server closes it.
	Listener net.Listener
	// ExternalAddress is the host:port under which clients are told to find the server. Optional: the listener's.
	ExternalAddress string
	// ServingCert and ClientCA may change at any time and tell their listeners so.
	ServingCert dynamiccertificates.CertKeyContentProvider
	ClientCA    dynamiccertificates.CAContentProvider
	// InProcess is bound to the server by Run, before the network can reach it.
	InProcess *inprocess.Transport

	// Authenticator must recognise InProcess.Authenticator's identities, too.
	Authenticator authenticator.Request
	// Audiences are those of the tokens that the server accepts. Optional.
	Audiences authenticator.Audiences
	// Authorizer allows what users may do, Rules lists it.
	Authorizer authorizer.Authorizer
	Rules      authorizer.RuleResolver
	// Admission is optional.
	Admission admission.Interface

	// Tokens issues service-account tokens. Optional: without it nothing does.
	Tokens resource.TokenIssuer
	// Kubelet says how kubelets are reached. Optional: without it they are not.
	Kubelet *KubeletClient
	// FrontProxy is the client certificate that servers behind this one know it by (see package aggregation). Optional: without it
	// they know nobody.
	FrontProxy dynamiccertificates.CertKeyContentProvider
	// ServiceCIDRs are the ranges of the default ServiceCIDR, the primary family's first: one, or one of each family.
	ServiceCIDRs []netip.Prefix
	// NodePorts is the range of node ports. Optional: 30000-32767.
	NodePorts utilnet.PortRange
	// Claims keep several servers from handing out one node port twice. Optional: no other server writes to
	// Storage.
	Claims Claims

	// Audit records requests. Optional.
	Audit *auditing.Auditing
	// Encryption says what is encrypted in Storage. Optional: nothing.
	Encryption *encryption.Encryption

	// Gates are what /readyz, /livez and /healthz wait for, once each.
	Gates []Gate
	// Checks are asked at each /readyz, /livez and /healthz, ReadyChecks at each /readyz alone. Optional.
	Checks, ReadyChecks []healthz.HealthChecker
	// Components are the parts of the control plane, for those who ask whether they are well. Optional.
	Components []resource.Component
	// Handlers serve whole paths beside the API ("/openid/v1/jwks"), behind authentication and authorization. Optional.
	Handlers map[string]http.Handler

	// Version is what /version answers.
	Version version.Info
	// Title heads the OpenAPI documents. Optional: "Kubernetes".
	Title string

	// MaxReads and MaxWrites bound the requests of each sort that are served at once, long-running ones not counted; more
	// are turned away with 429. Optional: DefaultMaxReads and DefaultMaxWrites.
	MaxReads, MaxWrites int
	// FlowControl decides which requests are served when, in the place of MaxReads and MaxWrites. Optional.
	FlowControl utilflowcontrol.Interface
	// ShutdownGrace bounds how long connections are waited for when the server stops. Requests in flight are always
	// finished (each has its own deadline of a minute); watches are ended. Optional: 10 s.
	ShutdownGrace time.Duration
}

// How many requests of each sort are served at once; upstream's.
const DefaultMaxReads, DefaultMaxWrites = 400, 200

// Gate is something that happens once while the system starts.
type Gate struct {
	// Name is shown by /readyz?verbose.
	Name string
	// Open is closed when it has happened.
	Open <-chan struct{}
}

func (c *Config) complete() error {
	switch {
	case c.Storage == nil:
		return errors.New("no storage given")
	case c.Listener == nil:
		return errors.New("no listener given")
	case c.ServingCert == nil || c.ClientCA == nil:
		return errors.New("no serving certificate or client CA given")
	case c.InProcess == nil:
		return errors.New("no in-process transport given")
	case c.Authenticator == nil || c.Authorizer == nil || c.Rules == nil:
		return errors.New("no authenticator, authorizer or rule resolver given")
	case c.Version.GitVersion == "":
		return errors.New("no version given")
	}
	if c.ExternalAddress == "" {
		c.ExternalAddress = c.Listener.Addr().String()
	}
	if c.NodePorts.Size == 0 {
		c.NodePorts = utilnet.PortRange{Base: 30000, Size: 2768}
	}
	if c.Title == "" {
		c.Title = "Kubernetes"
	}
	if c.MaxReads == 0 {
		c.MaxReads = DefaultMaxReads
	}
	if c.MaxWrites == 0 {
		c.MaxWrites = DefaultMaxWrites
	}
	if c.ShutdownGrace == 0 {
		c.ShutdownGrace = 10 * time.Second
	}
	return nil
}
