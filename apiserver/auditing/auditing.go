// Package auditing has requests to the API recorded, as a policy says, in a file or at a webhook. What it configures is
// k8s.io/apiserver's; where nothing is to be recorded, it makes nothing, and requests do not pass through it.
package auditing

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/audit"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	pluginlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// Options are what a user may set. Names, defaults and meanings are kube-apiserver's.
type Options struct {
	// AuditPolicyFile says which requests are recorded, and how much of each.
	AuditPolicyFile string `json:"auditPolicyFile,omitempty"`
	// AuditLogPath is the file that records are written to, one a line; "-" is the standard output.
	AuditLogPath string `json:"auditLogPath,omitempty"`
	// At AuditLogMaxSize megabytes the file is renamed and a new one begun (0: never). Of the old ones AuditLogMaxBackup are kept,
	// for AuditLogMaxAge days (0: for ever, all), gzipped if AuditLogCompress.
	AuditLogMaxSize   int  `json:"auditLogMaxSize"`
	AuditLogMaxBackup int  `json:"auditLogMaxBackup"`
	AuditLogMaxAge    int  `json:"auditLogMaxAge"`
	AuditLogCompress  bool `json:"auditLogCompress,omitempty"`
	// AuditLogFormat is json or legacy, AuditLogMode blocking, blocking-strict or batch: whether a request waits for its record.
	AuditLogFormat string `json:"auditLogFormat,omitempty"`
	AuditLogMode   string `json:"auditLogMode,omitempty"`
	// AuditWebhookConfigFile is a kubeconfig that leads to a webhook that takes records, AuditWebhookMode is as AuditLogMode.
	AuditWebhookConfigFile string `json:"auditWebhookConfigFile,omitempty"`
	AuditWebhookMode       string `json:"auditWebhookMode,omitempty"`
}

// DefaultOptions record nothing.
func DefaultOptions() Options {
	d := options.NewAuditOptions()
	return Options{
		AuditLogMaxSize: d.LogOptions.MaxSize, AuditLogMaxBackup: d.LogOptions.MaxBackups, AuditLogMaxAge: d.LogOptions.MaxAge,
		AuditLogFormat: d.LogOptions.Format, AuditLogMode: d.LogOptions.BatchOptions.Mode, AuditWebhookMode: d.WebhookOptions.BatchOptions.Mode,
	}
}

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	modes := strings.Join(options.AllowedModes, ", ")
	f.StringVar(&o.AuditPolicyFile, "audit-policy-file", o.AuditPolicyFile, "file with the policy of what is recorded of requests")
	f.StringVar(&o.AuditLogPath, "audit-log-path", o.AuditLogPath, "record requests in this file; - is the standard output")
	f.IntVar(&o.AuditLogMaxSize, "audit-log-maxsize", o.AuditLogMaxSize, "megabytes at which that file is renamed and a new one begun; 0 never does")
	f.IntVar(&o.AuditLogMaxBackup, "audit-log-maxbackup", o.AuditLogMaxBackup, "how many of the old files are kept; 0 keeps all")
	f.IntVar(&o.AuditLogMaxAge, "audit-log-maxage", o.AuditLogMaxAge, "days after which old files are removed; 0 keeps them for ever")
	f.BoolVar(&o.AuditLogCompress, "audit-log-compress", o.AuditLogCompress, "gzip the old files")
	f.StringVar(&o.AuditLogFormat, "audit-log-format", o.AuditLogFormat, "how records are written: "+strings.Join(pluginlog.AllowedFormats, ", "))
	f.StringVar(&o.AuditLogMode, "audit-log-mode", o.AuditLogMode, "whether requests wait for their records: "+modes)
	f.StringVar(&o.AuditWebhookConfigFile, "audit-webhook-config-file", o.AuditWebhookConfigFile, "send records of requests to the webhook that this kubeconfig leads to")
	f.StringVar(&o.AuditWebhookMode, "audit-webhook-mode", o.AuditWebhookMode, "whether requests wait for that: "+modes)
}

// Check checks the options without reading a file. Errors name the flag, the value and what would do.
func (o Options) Check() error {
	for flag, mode := range map[string]string{"audit-log-mode": o.AuditLogMode, "audit-webhook-mode": o.AuditWebhookMode} {
		if !slices.Contains(options.AllowedModes, mode) {
			return fmt.Errorf("--%s %q: must be one of %s", flag, mode, strings.Join(options.AllowedModes, ", "))
		}
	}
	if !slices.Contains(pluginlog.AllowedFormats, o.AuditLogFormat) {
		return fmt.Errorf("--audit-log-format %q: must be one of %s", o.AuditLogFormat, strings.Join(pluginlog.AllowedFormats, ", "))
	}
	for flag, n := range map[string]int{"audit-log-maxsize": o.AuditLogMaxSize, "audit-log-maxbackup": o.AuditLogMaxBackup, "audit-log-maxage": o.AuditLogMaxAge} {
		if n < 0 {
			return fmt.Errorf("--%s %d: must not be negative; 0 sets no limit", flag, n)
		}
	}
	for flag, file := range map[string]string{"audit-log-path": o.AuditLogPath, "audit-webhook-config-file": o.AuditWebhookConfigFile} {
		if file != "" && o.AuditPolicyFile == "" {
			return fmt.Errorf("--%s %q: records nothing without --audit-policy-file", flag, file)
		}
	}
	if o.AuditPolicyFile != "" && o.AuditLogPath == "" && o.AuditWebhookConfigFile == "" {
		return fmt.Errorf("--audit-policy-file %q: records go nowhere; give --audit-log-path or --audit-webhook-config-file", o.AuditPolicyFile)
	}
	return nil
}

// Auditing is a policy with what takes the records.
type Auditing struct {
	Policy  audit.PolicyRuleEvaluator
	Backend audit.Backend
}

// New reads the policy and opens what takes the records; nil if there is nothing to record. The server that it is given to
// starts and ends the backend.
func New(o Options) (*Auditing, error) {
	if err := o.Check(); err != nil || o.AuditPolicyFile == "" {
		return nil, err
	}
	a := options.NewAuditOptions()
	a.PolicyFile = o.AuditPolicyFile
	l := &a.LogOptions
	l.Path, l.MaxSize, l.MaxBackups, l.MaxAge, l.Compress = o.AuditLogPath, o.AuditLogMaxSize, o.AuditLogMaxBackup, o.AuditLogMaxAge, o.AuditLogCompress
	l.Format, l.BatchOptions.Mode = o.AuditLogFormat, o.AuditLogMode
	a.WebhookOptions.ConfigFile, a.WebhookOptions.BatchOptions.Mode = o.AuditWebhookConfigFile, o.AuditWebhookMode
	if l.Path != "" && l.Path != "-" {
		var err error
		if l.Path, err = filepath.Abs(l.Path); err != nil {
			return nil, fmt.Errorf("--audit-log-path %q: %w", o.AuditLogPath, err)
		}
	}
	var c genericapiserver.Config
	if err := errors.Join(errors.Join(a.Validate()...), a.ApplyTo(&c)); err != nil {
		return nil, fmt.Errorf("set up the recording of requests (--audit-policy-file %q, --audit-log-path %q, --audit-webhook-config-file %q): %w",
			o.AuditPolicyFile, o.AuditLogPath, o.AuditWebhookConfigFile, err)
	}
	return &Auditing{Policy: c.AuditPolicyRuleEvaluator, Backend: c.AuditBackend}, nil
}
