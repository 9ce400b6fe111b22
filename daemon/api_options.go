package daemon

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"github.com/peapod/peapod/apiserver/auditing"
	"github.com/peapod/peapod/apiserver/encryption"
)

type (
	// AuditOptions are what is recorded of requests.
	AuditOptions = auditing.Options
	// EncryptionOptions are what is encrypted in the store.
	EncryptionOptions = encryption.Options
)

// APIOptions are what a user may set of the API server beyond where it is. Names, defaults and meanings are kube-apiserver's; what
// is not asked for is not there and costs nothing.
type APIOptions struct {
	AuditOptions
	EncryptionOptions
}

func defaultAPIOptions() APIOptions {
	return APIOptions{AuditOptions: auditing.DefaultOptions()}
}

// AddFlags adds a flag for each option.
func (o *APIOptions) AddFlags(f *pflag.FlagSet) {
	o.AuditOptions.AddFlags(f)
	o.EncryptionOptions.AddFlags(f)
}

// check checks what can be told without reading a file.
func (o *APIOptions) check() error {
	return errors.Join(o.AuditOptions.Check(), o.EncryptionOptions.Check())
}

// guards are what the options have made.
type guards struct {
	// audit is nil where requests are not recorded.
	audit *auditing.Auditing
	// encryption is nil where nothing is encrypted.
	encryption *encryption.Encryption
}

// open reads the files that the options name. It comes before anything is changed on the machine: a mistake in one is an error of the start.
// What it starts ends with ctx. server names this one.
func (o *APIOptions) open(ctx context.Context, server string) (g guards, err error) {
	if g.audit, err = auditing.New(o.AuditOptions); err != nil {
		return g, err
	}
	if g.encryption, err = encryption.New(ctx, o.EncryptionOptions, server); err != nil {
		return g, err
	}
	return g, nil
}
