package daemon

import (
	"github.com/spf13/pflag"

	"github.com/peapod/peapod/apiserver/auditing"
)

// AuditOptions are what is recorded of requests.
type AuditOptions = auditing.Options

// APIOptions are what a user may set of the API server beyond where it is. Names, defaults and meanings are kube-apiserver's; what
// is not asked for is not there and costs nothing.
type APIOptions struct {
	AuditOptions
}

func defaultAPIOptions() APIOptions {
	return APIOptions{AuditOptions: auditing.DefaultOptions()}
}

// AddFlags adds a flag for each option.
func (o *APIOptions) AddFlags(f *pflag.FlagSet) {
	o.AuditOptions.AddFlags(f)
}

// check checks what can be told without reading a file.
func (o *APIOptions) check() error {
	return o.AuditOptions.Check()
}

// guards are what the options have made.
type guards struct {
	// audit is nil where requests are not recorded.
	audit *auditing.Auditing
}

// open reads the files that the options name. It comes before anything is changed on the machine: a mistake in one is an error of the start.
func (o *APIOptions) open() (g guards, err error) {
	if g.audit, err = auditing.New(o.AuditOptions); err != nil {
		return g, err
	}
	return g, nil
}
