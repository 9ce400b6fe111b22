// Package authn says who sends a request: a component in this process, the bearer of a client certificate, the bearer
// of a service-account or bootstrap token or of one that others have issued, or, on the few paths open to everybody, nobody in particular. Whoever presents a bad
// credential is refused, also on those paths.
package authn

import (
	"errors"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// Config says what is believed.
type Config struct {
	// InProcess recognises the components of this process; nil where there are none.
	InProcess authenticator.Request
	// ClientCA vouches for client certificates: the common name is the user, the organizations are the groups.
	ClientCA dynamiccertificates.CAContentProvider
	// Issuer issued the service-account tokens.
	Issuer *Issuer
	// Informers and Client find the ServiceAccounts, Pods, Secrets and Nodes that tokens are bound to. The informers need not
	// have synced: what they do not know is asked for.
	Informers informers.SharedInformerFactory
	Client    kubernetes.Interface
	// Others knows the bearers of tokens that others have issued. Optional.
	Others authenticator.Token
	// Anonymous says where one may go without a credential. Optional: to the paths that are open to everybody.
	Anonymous *apiserver.AnonymousAuthConfig
}

// Authenticator tells who sends a request.
type Authenticator struct {
	request authenticator.Request
}

// openToAll are the paths that need no credential.
func openToAll() []apiserver.AnonymousAuthCondition {
	return []apiserver.AnonymousAuthCondition{{Path: "/livez"}, {Path: "/readyz"}, {Path: "/healthz"}, {Path: "/version"}, {Path: "/version/"}}
}

// New makes the authenticator.
func New(cfg Config) (*Authenticator, error) {
	if cfg.ClientCA == nil || cfg.Issuer == nil || cfg.Informers == nil || cfg.Client == nil {
		return nil, errors.New("make authenticator: ClientCA, Issuer, Informers and Client are needed")
	}
	core := cfg.Informers.Core().V1()
	t := &tokens{issuer: cfg.Issuer, objects: objects{client: cfg.Client, accounts: core.ServiceAccounts().Lister(),
		pods: core.Pods().Lister(), nodes: core.Nodes().Lister()}}
	var list []authenticator.Request
	if cfg.InProcess != nil {
		list = append(list, cfg.InProcess)
	}
	list = append(list,
		newCertificates(cfg.ClientCA.VerifyOptions, clock.RealClock{}),
		bearertoken.New(t),
		websocket.NewProtocolAuthenticator(t),
		bearertoken.New(bootstrapTokens{cfg.Client, time.Now}))
	if cfg.Others != nil {
		list = append(list, bearertoken.New(cfg.Others), websocket.NewProtocolAuthenticator(cfg.Others))
	}
	if cfg.Anonymous == nil {
		cfg.Anonymous = &apiserver.AnonymousAuthConfig{Enabled: true, Conditions: openToAll()}
	}
	known := group.NewAuthenticatedGroupAdder(union.New(list...))
	// A bad credential stops here and is not taken for none at all.
	a := &Authenticator{request: union.NewFailOnError(known)}
	if cfg.Anonymous.Enabled {
		a.request = union.NewFailOnError(known, anonymous.NewAuthenticator(cfg.Anonymous.Conditions))
	}
	return a, nil
}

// Request authenticates the requests that the server receives.
func (a *Authenticator) Request() authenticator.Request { return a.request }
