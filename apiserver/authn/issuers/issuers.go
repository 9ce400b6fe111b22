// Package issuers has the server believe tokens that others have issued, OpenID Connect providers for instance, as a file of
// kube-apiserver's form says; the same file says where nobody in particular may go. The work is k8s.io/apiserver's.
package issuers

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/cel"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// Options are what a user may set. Names and meanings are kube-apiserver's.
type Options struct {
	// AuthenticationConfig is the file. It is read at the start.
	AuthenticationConfig string `json:"authenticationConfig,omitempty"`
	// AnonymousAuth lets requests without a credential get to the paths that are open to everybody, or to those that the file says.
	AnonymousAuth bool `json:"anonymousAuth"`
}

const (
	fileFlag      = "authentication-config"
	anonymousFlag = "anonymous-auth"
)

// DefaultOptions believe nobody else.
func DefaultOptions() Options { return Options{AnonymousAuth: true} }

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.AuthenticationConfig, fileFlag, o.AuthenticationConfig, "file that says whose tokens (OpenID Connect) are believed, and as which users")
	f.BoolVar(&o.AnonymousAuth, anonymousFlag, o.AnonymousAuth, "requests without a credential get to /livez, /readyz, /healthz and /version")
}

// Trust is what the options say.
type Trust struct {
	// Tokens authenticates bearers of others' tokens; nil: there are none.
	Tokens authenticator.Token
	// Anonymous says where one may go without a credential; nil: to the paths that are open to everybody.
	Anonymous *apiserver.AnonymousAuthConfig
}

// tokenTTL is for how long an answer about a token is remembered; upstream's.
const tokenTTL = 10 * time.Second

// Config is what the file is read with.
type Config struct {
	Options
	// Issuer and Audiences are those of the server's own tokens.
	Issuer    string
	Audiences authenticator.Audiences
	// Server names this one in metrics.
	Server string
}

// New reads the file. Issuers are asked for their keys in the background until ctx ends, again every 10 s if they do not answer;
// meanwhile their tokens are refused. Errors name the flag, the file and the field.
func New(ctx context.Context, c Config) (Trust, error) {
	var t Trust
	if c.AuthenticationConfig == "" {
		if !c.AnonymousAuth {
			t.Anonymous = &apiserver.AnonymousAuthConfig{}
		}
		return t, nil
	}
	if err := t.load(ctx, c); err != nil {
		return Trust{}, fmt.Errorf("--%s %q: %w", fileFlag, c.AuthenticationConfig, err)
	}
	return t, nil
}

func (t *Trust) load(ctx context.Context, c Config) error {
	data, err := os.ReadFile(c.AuthenticationConfig)
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoded, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return err
	}
	config, ok := decoded.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return fmt.Errorf("holds a %T, not an AuthenticationConfiguration", decoded)
	}
	compiler := cel.NewDefaultCompiler()
	if err := validation.ValidateAuthenticationConfiguration(compiler, config, []string{c.Issuer}).ToAggregate(); err != nil {
		return err
	}
	t.Anonymous = config.Anonymous
	if !c.AnonymousAuth {
		if t.Anonymous != nil {
			return fmt.Errorf("anonymous: cannot be set together with --%s; leave one out", anonymousFlag)
		}
		t.Anonymous = &apiserver.AnonymousAuthConfig{}
	}
	var all []authenticator.Token
	for i, issuer := range config.JWT {
		one, err := newIssuer(ctx, c, issuer, compiler)
		if err != nil {
			return fmt.Errorf("jwt[%d]: %w", i, err)
		}
		all = append(all, one)
	}
	if len(all) > 0 {
		agnostic := authenticator.WrapAudienceAgnosticToken(c.Audiences, tokenunion.New(all...))
		t.Tokens = tokencache.New(agnostic, false, tokenTTL, tokenTTL)
	}
	return nil
}

func newIssuer(ctx context.Context, c Config, issuer apiserver.JWTAuthenticator, compiler cel.Compiler) (authenticator.Token, error) {
	options := oidc.Options{JWTAuthenticator: issuer, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(), Compiler: compiler,
		DisallowedIssuers: []string{c.Issuer}, APIServerID: c.Server}
	if ca := issuer.Issuer.CertificateAuthority; ca != "" {
		roots, err := dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(ca))
		if err != nil {
			return nil, err
		}
		options.CAContentProvider = roots
	}
	return oidc.New(ctx, options)
}
