package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/admission/configuration"
	"github.com/peapod/peapod/apiserver/auditing"
	"github.com/peapod/peapod/apiserver/authn"
	"github.com/peapod/peapod/apiserver/authn/issuers"
	"github.com/peapod/peapod/apiserver/authz/structured"
	"github.com/peapod/peapod/apiserver/encryption"
)

type (
	// AuditOptions are what is recorded of requests.
	AuditOptions = auditing.Options
	// EncryptionOptions are what is encrypted in the store.
	EncryptionOptions = encryption.Options
	// AdmissionOptions are which plugins of admission are asked, and their settings.
	AdmissionOptions = configuration.Options
	// AuthorizationOptions are who is asked whether a request is allowed.
	AuthorizationOptions = structured.Options
	// IssuerOptions are whose tokens are believed.
	IssuerOptions = issuers.Options
)

// APIOptions are what a user may set of the API server beyond where it is. Names, defaults and meanings are kube-apiserver's; what
// is not asked for is not there and costs nothing.
type APIOptions struct {
	AuditOptions
	EncryptionOptions
	IssuerOptions
	AuthorizationOptions
	AdmissionOptions
	// MaxRequestsInflight and MaxMutatingRequestsInflight are how many requests that read and that write are served at once; more
	// are turned away. With EnablePriorityAndFairness their sum is shared out among the priority levels, where requests may wait.
	// That costs 0.2 to 0.3 ms of each request and so is not the default, which it is upstream.
	MaxRequestsInflight         int  `json:"maxRequestsInflight,omitempty"`
	MaxMutatingRequestsInflight int  `json:"maxMutatingRequestsInflight,omitempty"`
	EnablePriorityAndFairness   bool `json:"enablePriorityAndFairness,omitempty"`
}

func defaultAPIOptions() APIOptions {
	return APIOptions{AuditOptions: auditing.DefaultOptions(), IssuerOptions: issuers.DefaultOptions(),
		MaxRequestsInflight: apiserver.DefaultMaxReads, MaxMutatingRequestsInflight: apiserver.DefaultMaxWrites}
}

// AddFlags adds a flag for each option.
func (o *APIOptions) AddFlags(f *pflag.FlagSet) {
	o.AuditOptions.AddFlags(f)
	o.EncryptionOptions.AddFlags(f)
	o.IssuerOptions.AddFlags(f)
	o.AuthorizationOptions.AddFlags(f)
	o.AdmissionOptions.AddFlags(f)
	f.IntVar(&o.MaxRequestsInflight, "max-requests-inflight", o.MaxRequestsInflight, "how many requests that read are served at once")
	f.IntVar(&o.MaxMutatingRequestsInflight, "max-mutating-requests-inflight", o.MaxMutatingRequestsInflight, "how many requests that write are served at once")
	f.BoolVar(&o.EnablePriorityAndFairness, "enable-priority-and-fairness", o.EnablePriorityAndFairness, "share out the sum of both as flow schemas and priority levels say; costs 0.2 to 0.3 ms a request")
}

// check checks what can be told without reading a file.
func (o *APIOptions) check() error {
	if reads, writes := o.MaxRequestsInflight, o.MaxMutatingRequestsInflight; reads < 1 || writes < 1 {
		return fmt.Errorf("--max-requests-inflight %d, --max-mutating-requests-inflight %d: must be positive, such as %d and %d",
			reads, writes, apiserver.DefaultMaxReads, apiserver.DefaultMaxWrites)
	}
	return errors.Join(o.AuditOptions.Check(), o.EncryptionOptions.Check(), o.IssuerOptions.Check(), o.AdmissionOptions.Check())
}

// guards are what the options have made.
type guards struct {
	// audit is nil where requests are not recorded.
	audit *auditing.Auditing
	// encryption is nil where nothing is encrypted.
	encryption *encryption.Encryption
	admission  configuration.Configuration
	trust      issuers.Trust
	// authorizers is nil where no file says who is asked.
	authorizers *structured.File
}

// open reads the files that the options name. It comes before anything is changed on the machine: a mistake in one is an error of the start.
// What it starts ends with ctx. server names this one.
func (o *APIOptions) open(ctx context.Context, server string) (g guards, err error) {
	if g.audit, err = auditing.New(o.AuditOptions); err != nil {
		return g, err
	}
	if g.admission, err = configuration.Load(o.AdmissionOptions); err != nil {
		return g, err
	}
	if g.trust, err = issuers.New(ctx, issuers.Config{Options: o.IssuerOptions, Issuer: authn.DefaultURL, Audiences: authenticator.Audiences{authn.DefaultURL}, Server: server}); err != nil {
		return g, err
	}
	if g.authorizers, err = structured.Load(o.AuthorizationOptions, server); err != nil {
		return g, err
	}
	if g.encryption, err = encryption.New(ctx, o.EncryptionOptions, server); err != nil {
		return g, err
	}
	return g, nil
}

// start has changes of those files count that are read again.
func (g guards) start(ps *parts) {
	if g.encryption.Reloads() {
		ps.start("encryption configuration", g.encryption.Run)
	}
	if g.trust.Reloads() {
		ps.start("authentication configuration", g.trust.Run)
	}
	if g.authorizers != nil {
		ps.start("authorization configuration", g.authorizers.Run)
	}
}
