package issuers

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/cel"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"github.com/peapod/peapod/apiserver/optionfile"
)

// oldGrace is how long requests that are being authenticated have left when others come to be believed; upstream's.
const oldGrace = time.Minute

// issuersWait is how long issuers have to answer before the file is tried again later.
const issuersWait = 10 * time.Second

// file is the authenticator that the file describes, as it is now.
type file struct {
	// lasting is what the issuers' keys are fetched under: for as long as the server runs.
	lasting  context.Context
	config   Config
	compiler cel.Compiler
	// first is what it held at the start; anonymous is what that said, which a change may not change.
	first     []byte
	anonymous *apiserver.AnonymousAuthConfig
	now       atomic.Pointer[believed]
}

// believed are the issuers of one state of the file.
type believed struct {
	tokens authenticator.Token
	checks []func() error
	end    context.CancelFunc
}

// AuthenticateToken asks the issuers that are believed now.
func (f *file) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return f.now.Load().tokens.AuthenticateToken(ctx, token)
}

// parse reads and checks what the file holds.
func (f *file) parse(data []byte) (*apiserver.AuthenticationConfiguration, error) {
	says, err := optionfile.Decode[apiserver.AuthenticationConfiguration](data)
	if err != nil {
		return nil, err
	}
	return says, validation.ValidateAuthenticationConfiguration(f.compiler, says, []string{f.config.Issuer}).ToAggregate()
}

// believe begins to fetch the issuers' keys.
func (f *file) believe(says *apiserver.AuthenticationConfiguration) (*believed, error) {
	ctx, end := context.WithCancel(f.lasting)
	b := &believed{end: end}
	var all []authenticator.Token
	for i, issuer := range says.JWT {
		one, err := newIssuer(ctx, f.config, issuer, f.compiler)
		if err != nil {
			end()
			return nil, fmt.Errorf("jwt[%d]: %w", i, err)
		}
		all, b.checks = append(all, one), append(b.checks, one.HealthCheck)
	}
	b.tokens = tokenunion.New()
	if len(all) > 0 {
		b.tokens = tokencache.New(authenticator.WrapAudienceAgnosticToken(f.config.Audiences, tokenunion.New(all...)), false, tokenTTL, tokenTTL)
	}
	return b, nil
}

// put has those believed that the file names now, if all of them answer within issuersWait. Tokens that were looked up before are
// looked up again.
func (f *file) put(ctx context.Context, data []byte) error {
	says, err := f.parse(data)
	if err == nil && !reflect.DeepEqual(says.Anonymous, f.anonymous) {
		err = errors.New("anonymous: changed from what the file said at the start; restart the server for it")
	}
	var coming *believed
	if err == nil {
		coming, err = f.believe(says)
	}
	if err != nil {
		return optionfile.Invalid(err)
	}
	if err := coming.await(ctx); err != nil {
		coming.end()
		return fmt.Errorf("wait for issuers of tokens: %w", err)
	}
	time.AfterFunc(oldGrace, f.now.Swap(coming).end)
	return nil
}

// await waits until all issuers have answered; there is no other way to learn it than to ask.
func (b *believed) await(ctx context.Context) error {
	var missing error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, issuersWait, true, func(context.Context) (bool, error) {
		missing = nil
		for _, check := range b.checks {
			missing = errors.Join(missing, check())
		}
		return missing == nil, nil
	})
	return errors.Join(err, missing)
}

func newIssuer(ctx context.Context, c Config, issuer apiserver.JWTAuthenticator, compiler cel.Compiler) (oidc.AuthenticatorTokenWithHealthCheck, error) {
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
