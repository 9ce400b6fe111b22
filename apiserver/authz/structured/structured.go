// Package structured asks authorizers in the order that a file says, an AuthorizationConfiguration as kube-apiserver reads it: those of
// the cluster itself, and webhooks. The work of webhooks is k8s.io/apiserver's.
package structured

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/metrics"
	"k8s.io/apiserver/pkg/authorization/union"
	reloadmetrics "k8s.io/apiserver/pkg/server/options/authorizationconfig/metrics"

	"github.com/peapod/peapod/apiserver/optionfile"
)

// Options are what a user may set. Names and meanings are kube-apiserver's.
type Options struct {
	// AuthorizationConfig is the file. Its changes count at once.
	AuthorizationConfig string `json:"authorizationConfig,omitempty"`
}

const fileFlag = "authorization-config"

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.AuthorizationConfig, fileFlag, o.AuthorizationConfig,
		"file that says who is asked whether a request is allowed: Node, RBAC, webhooks (default: Node, RBAC)")
}

// The types of authorizers that a file may name besides webhooks.
const (
	Node        apiserver.AuthorizerType = "Node"
	RBAC        apiserver.AuthorizerType = "RBAC"
	AlwaysAllow apiserver.AuthorizerType = "AlwaysAllow"
	AlwaysDeny  apiserver.AuthorizerType = "AlwaysDeny"
)

// Part is an authorizer of the cluster itself.
type Part struct {
	authorizer.Authorizer
	authorizer.RuleResolver
}

// Parts are the authorizers of the cluster itself, Node and RBAC.
type Parts map[apiserver.AuthorizerType]Part

// File is a chain of authorizers as a file says. It answers once it is bound.
type File struct {
	path, server string
	compiler     cel.Compiler
	data         []byte
	parts        Parts
	now          atomic.Pointer[Part]
}

var (
	_ authorizer.Authorizer   = &File{}
	_ authorizer.RuleResolver = &File{}
)

// Load reads the file; nil if none is given. Errors name the flag, the file and the field. server names this one in metrics.
func Load(o Options, server string) (*File, error) {
	if o.AuthorizationConfig == "" {
		return nil, nil
	}
	f := &File{path: o.AuthorizationConfig, server: server, compiler: cel.NewDefaultCompiler()}
	var err error
	if f.data, err = os.ReadFile(f.path); err == nil {
		_, err = f.parse(f.data)
	}
	if err != nil {
		return nil, f.named(err)
	}
	return f, nil
}

func (f *File) named(err error) error { return fmt.Errorf("--%s %q: %w", fileFlag, f.path, err) }

// Bind makes the chain, with the authorizers of the cluster itself for those that the file names.
func (f *File) Bind(parts Parts) error {
	f.parts = parts
	says, err := f.parse(f.data)
	if err != nil {
		return f.named(err)
	}
	if err := f.putInForce(says); err != nil {
		return f.named(err)
	}
	reloadmetrics.RegisterMetrics()
	reloadmetrics.RecordAuthorizationConfigLastConfigInfo(f.server, string(f.data))
	return nil
}

// Run puts changes of the file in force until ctx ends. What makes no sense is logged; what was in force remains so.
func (f *File) Run(ctx context.Context) error {
	w := optionfile.File{Flag: fileFlag, Path: f.path, InForce: f.data,
		Put: func(_ context.Context, data []byte) error {
			says, err := f.parse(data)
			if err == nil {
				err = f.putInForce(says)
			}
			return optionfile.Invalid(err)
		},
		Succeeded: func(data []byte) {
			reloadmetrics.RecordAuthorizationConfigAutomaticReloadSuccess(f.server, string(data))
		},
		Failed: func() { reloadmetrics.RecordAuthorizationConfigAutomaticReloadFailure(f.server) }}
	return w.Watch(ctx)
}

// parse reads and checks what the file holds.
func (f *File) parse(data []byte) (*apiserver.AuthorizationConfiguration, error) {
	says, err := optionfile.Decode[apiserver.AuthorizationConfiguration](data)
	if err != nil {
		return nil, err
	}
	known := sets.New(string(Node), string(RBAC), string(AlwaysAllow), string(AlwaysDeny), string(apiserver.TypeWebhook))
	err = validation.ValidateAuthorizationConfiguration(f.compiler, nil, says, known, sets.New(string(apiserver.TypeWebhook))).ToAggregate()
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, a := range says.Authorizers {
		if a.Type == apiserver.TypeWebhook {
			if a.Webhook.ConnectionInfo.KubeConfigFile == nil {
				errs = append(errs, fmt.Errorf("authorizers[%d].webhook.connectionInfo.type %q: only %q is supported",
					i, a.Webhook.ConnectionInfo.Type, apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile))
			}
			continue
		}
		if want := strings.ToLower(string(a.Type)); a.Name != want {
			errs = append(errs, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, a.Type, a.Name))
		}
	}
	return says, errors.Join(errs...)
}

// putInForce makes the chain that the file describes. The members of system:masters come first, whatever it says.
func (f *File) putInForce(says *apiserver.AuthorizationConfiguration) error {
	list := []Named{}
	for i, a := range says.Authorizers {
		part, ok := f.parts[a.Type]
		switch {
		case ok:
		case a.Type == AlwaysAllow:
			always := authorizerfactory.NewAlwaysAllowAuthorizer()
			part = Part{always, always}
		case a.Type == AlwaysDeny:
			always := authorizerfactory.NewAlwaysDenyAuthorizer()
			part = Part{always, always}
		case a.Type == apiserver.TypeWebhook:
			w, err := f.webhook(a)
			if err != nil {
				return fmt.Errorf("authorizers[%d].webhook: %w", i, err)
			}
			part = Part{w, w}
		default:
			return fmt.Errorf("authorizers[%d].type %q: there is none here", i, a.Type)
		}
		list = append(list, Named{a.Type, a.Name, part})
	}
	chain, err := Chain(list...)
	if err != nil {
		return err
	}
	f.now.Store(&chain)
	return nil
}

// Named is an authorizer of a chain.
type Named struct {
	Type apiserver.AuthorizerType
	Name string
	Part
}

// Chain asks the authorizers one after the other until one allows or denies, the members of system:masters before all. What they decide
// is counted.
func Chain(list ...Named) (Part, error) {
	chain := []union.NamedAuthorizer{{AuthorizerName: user.SystemPrivilegedGroup, Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)}}
	var rules []authorizer.RuleResolver
	for _, n := range list {
		chain = append(chain, union.NamedAuthorizer{AuthorizerName: n.Name, Authorizer: metrics.InstrumentedAuthorizer(string(n.Type), n.Name, n.Authorizer)})
		rules = append(rules, n.RuleResolver)
	}
	all, err := union.New(chain...)
	if err != nil {
		return Part{}, fmt.Errorf("make authorizer: %w", err)
	}
	return Part{all, union.NewRuleResolvers(rules...)}, nil
}

// Authorize asks the chain.
func (f *File) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	return f.now.Load().Authorize(ctx, a)
}

// ConditionsAwareAuthorize asks the chain.
func (f *File) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return f.now.Load().ConditionsAwareAuthorize(ctx, a)
}

// EvaluateConditions asks the chain. Conditions of one that another has replaced meanwhile are an error, which refuses the request.
func (f *File) EvaluateConditions(ctx context.Context, d authorizer.ConditionsAwareDecision, data authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return f.now.Load().EvaluateConditions(ctx, d, data)
}

// RulesFor lists what the chain's authorizers know.
func (f *File) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return f.now.Load().RulesFor(ctx, u, namespace)
}
