// Package issuers has the server believe tokens that others have issued, OpenID Connect providers for instance, as a file of
// kube-apiserver's form says; the same file says where nobody in particular may go. The work is k8s.io/apiserver's.
package issuers

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/cel"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"

	"github.com/peapod/peapod/apiserver/optionfile"
)

// Options are what a user may set. Names and meanings are kube-apiserver's.
type Options struct {
	// AuthenticationConfig is the file. Its changes count at once.
	AuthenticationConfig string `json:"authenticationConfig,omitempty"`
	// AuthenticationTokenWebhookConfigFile is a kubeconfig of a server that is asked whose tokens are that nobody else knows, with a
	// TokenReview of AuthenticationTokenWebhookVersion. An answer is remembered for AuthenticationTokenWebhookCacheTTL.
	AuthenticationTokenWebhookConfigFile string          `json:"authenticationTokenWebhookConfigFile,omitempty"`
	AuthenticationTokenWebhookVersion    string          `json:"authenticationTokenWebhookVersion,omitempty"`
	AuthenticationTokenWebhookCacheTTL   metav1.Duration `json:"authenticationTokenWebhookCacheTTL,omitzero"`
	// AnonymousAuth lets requests without a credential get to the paths that are open to everybody, or to those that the file says.
	AnonymousAuth bool `json:"anonymousAuth"`
}

const (
	fileFlag      = "authentication-config"
	anonymousFlag = "anonymous-auth"

	webhookFlag        = "authentication-token-webhook-config-file"
	webhookVersionFlag = "authentication-token-webhook-version"
	webhookTTLFlag     = "authentication-token-webhook-cache-ttl"
)

// DefaultOptions believe nobody else.
func DefaultOptions() Options {
	return Options{AnonymousAuth: true, AuthenticationTokenWebhookVersion: "v1beta1",
		AuthenticationTokenWebhookCacheTTL: metav1.Duration{Duration: 2 * time.Minute}}
}

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.AuthenticationConfig, fileFlag, o.AuthenticationConfig, "file that says whose tokens (OpenID Connect) are believed, and as which users")
	f.StringVar(&o.AuthenticationTokenWebhookConfigFile, webhookFlag, o.AuthenticationTokenWebhookConfigFile, "kubeconfig of a webhook that is asked whose tokens are that nobody else knows")
	f.StringVar(&o.AuthenticationTokenWebhookVersion, webhookVersionFlag, o.AuthenticationTokenWebhookVersion, "version of the TokenReview that the webhook is sent: v1 or v1beta1")
	f.DurationVar(&o.AuthenticationTokenWebhookCacheTTL.Duration, webhookTTLFlag, o.AuthenticationTokenWebhookCacheTTL.Duration, "how long the webhook's answers are remembered")
	f.BoolVar(&o.AnonymousAuth, anonymousFlag, o.AnonymousAuth, "requests without a credential get to /livez, /readyz, /healthz and /version")
}

// Check checks the options without reading a file.
func (o Options) Check() error {
	if v := o.AuthenticationTokenWebhookVersion; v != "v1" && v != "v1beta1" {
		return fmt.Errorf("--%s %q: must be v1 or v1beta1", webhookVersionFlag, v)
	}
	if d := o.AuthenticationTokenWebhookCacheTTL.Duration; d < 0 {
		return fmt.Errorf("--%s %s: must not be negative; 0 has each request ask", webhookTTLFlag, d)
	}
	return nil
}

// Trust is what the options say.
type Trust struct {
	// Tokens authenticates bearers of others' tokens; nil: there are none, nor will there be any.
	Tokens authenticator.Token
	// Anonymous says where one may go without a credential; nil: to the paths that are open to everybody.
	Anonymous *apiserver.AnonymousAuthConfig
	// file is nil where none is given.
	file *file
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
	if !c.AnonymousAuth {
		t.Anonymous = &apiserver.AnonymousAuthConfig{}
	}
	if c.AuthenticationConfig != "" {
		if err := t.load(ctx, c); err != nil {
			return Trust{}, fmt.Errorf("--%s %q: %w", fileFlag, c.AuthenticationConfig, err)
		}
	}
	asked, err := newWebhook(c)
	switch {
	case err != nil:
		return Trust{}, err
	case asked != nil && t.Tokens != nil:
		t.Tokens = tokenunion.New(t.Tokens, asked)
	case asked != nil:
		t.Tokens = asked
	}
	return t, nil
}

func (t *Trust) load(ctx context.Context, c Config) error {
	data, err := os.ReadFile(c.AuthenticationConfig)
	if err != nil {
		return err
	}
	f := &file{lasting: ctx, config: c, first: data, compiler: cel.NewDefaultCompiler()}
	says, err := f.parse(data)
	if err != nil {
		return err
	}
	if says.Anonymous != nil {
		if !c.AnonymousAuth {
			return fmt.Errorf("anonymous: cannot be set together with --%s; leave one out", anonymousFlag)
		}
		t.Anonymous = says.Anonymous
	}
	f.anonymous = says.Anonymous
	believed, err := f.believe(says)
	if err != nil {
		return err
	}
	f.now.Store(believed)
	t.Tokens, t.file = f, f
	metrics.RegisterMetrics()
	metrics.RecordAuthenticationConfigLastConfigInfo(c.Server, string(data))
	return nil
}

// Reloads says whether there is anything to Run.
func (t Trust) Reloads() bool { return t.file != nil }

// Run puts changes of the file in force until ctx ends: once the issuers that it names have answered. What cannot be put in force is
// logged; whoever was believed remains so.
func (t Trust) Run(ctx context.Context) error {
	server := t.file.config.Server
	f := optionfile.File{Flag: fileFlag, Path: t.file.config.AuthenticationConfig, InForce: t.file.first, Put: t.file.put,
		Succeeded: func(data []byte) { metrics.RecordAuthenticationConfigAutomaticReloadSuccess(server, string(data)) },
		Failed:    func() { metrics.RecordAuthenticationConfigAutomaticReloadFailure(server) }}
	return f.Watch(ctx)
}
