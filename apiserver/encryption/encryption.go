// Package encryption has objects encrypted before they are stored, as a file with providers and keys says. What it configures is
// k8s.io/apiserver's, and so is the form of what is stored: a provider's name, a key's name, and the object, sealed together with the key
// that it is stored under.
package encryption

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/metrics"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/peapod/peapod/apiserver/optionfile"
)

// Options are what a user may set. Names, defaults and meanings are kube-apiserver's.
type Options struct {
	// EncryptionProviderConfig is the file with the providers.
	EncryptionProviderConfig string `json:"encryptionProviderConfig,omitempty"`
	// EncryptionProviderConfigAutomaticReload has changes of the file count at once. Lists then take the longer way for all
	// resources, as any may come to be encrypted.
	EncryptionProviderConfigAutomaticReload bool `json:"encryptionProviderConfigAutomaticReload,omitempty"`
}

const (
	fileFlag   = "encryption-provider-config"
	reloadFlag = fileFlag + "-automatic-reload"
)

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.EncryptionProviderConfig, fileFlag, o.EncryptionProviderConfig, "file that says which objects are encrypted before they are stored, and with which keys")
	f.BoolVar(&o.EncryptionProviderConfigAutomaticReload, reloadFlag, o.EncryptionProviderConfigAutomaticReload, "changes of that file count without a restart")
}

// Check checks the options without reading a file.
func (o Options) Check() error {
	if o.EncryptionProviderConfig == "" && o.EncryptionProviderConfigAutomaticReload {
		return fmt.Errorf("--%s: has a meaning only with --%s", reloadFlag, fileFlag)
	}
	return nil
}

// Encryption is what the file says.
type Encryption struct {
	file   string
	server string
	static map[schema.GroupResource]value.Transformer
	// dynamic is nil without reload.
	dynamic *encryptionconfig.DynamicTransformers
	// data is what the file held when it was first read, nil without reload; hash belongs to what of it is in force.
	data   []byte
	hash   string
	checks []healthz.HealthChecker
}

// New reads the file; nil if there is none. What it starts (the connections to key management services) ends with ctx. server
// names this one in metrics.
func New(ctx context.Context, o Options, server string) (*Encryption, error) {
	if err := o.Check(); err != nil || o.EncryptionProviderConfig == "" {
		return nil, err
	}
	file, err := filepath.Abs(o.EncryptionProviderConfig)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", fileFlag, o.EncryptionProviderConfig, err)
	}
	// Before it is read for its meaning: what changes in between is then seen as a change.
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", fileFlag, o.EncryptionProviderConfig, err)
	}
	metrics.RegisterMetrics()
	inForce, cancel := context.WithCancel(ctx)
	loaded, err := encryptionconfig.LoadEncryptionConfig(inForce, file, o.EncryptionProviderConfigAutomaticReload, server)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("--%s %q: %w", fileFlag, o.EncryptionProviderConfig, err)
	}
	metrics.RecordEncryptionConfigLastConfigInfo(server, loaded.EncryptionFileContentHash)
	e := &Encryption{file: file, server: server, static: loaded.Transformers, hash: loaded.EncryptionFileContentHash, checks: loaded.HealthChecks}
	if o.EncryptionProviderConfigAutomaticReload {
		e.dynamic = encryptionconfig.NewDynamicTransformers(loaded.Transformers, loaded.HealthChecks[0], cancel, loaded.KMSCloseGracePeriod)
		e.checks, e.data = []healthz.HealthChecker{e.dynamic}, data
		return e, nil
	}
	context.AfterFunc(ctx, cancel)
	return e, nil
}

// TransformerForResource is what the resource's objects go through on their way to the store and back; nil if they are, and stay, as
// they are.
func (e *Encryption) TransformerForResource(gr schema.GroupResource) value.Transformer {
	if e == nil {
		return nil
	}
	if e.dynamic != nil {
		return e.dynamic.TransformerForResource(gr)
	}
	for _, covers := range []schema.GroupResource{gr, {Group: gr.Group, Resource: "*"}, {Group: "*", Resource: "*"}} {
		if e.static[covers] != nil {
			return encryptionconfig.StaticTransformers(e.static).TransformerForResource(gr)
		}
	}
	return nil
}

// Checks tell whether the key management services answer, for /readyz and /healthz.
func (e *Encryption) Checks() []healthz.HealthChecker {
	if e == nil {
		return nil
	}
	return e.checks
}

// Reloads says whether there is anything to Run.
func (e *Encryption) Reloads() bool { return e != nil && e.dynamic != nil }

// Run puts changes of the file in force until ctx ends. What cannot be put in force is logged and tried again; what was in force
// remains so.
func (e *Encryption) Run(ctx context.Context) error {
	f := optionfile.File{Flag: fileFlag, Path: e.file, InForce: e.data, Put: e.put,
		Succeeded: func([]byte) { metrics.RecordEncryptionConfigAutomaticReloadSuccess(e.server, e.hash) },
		Failed:    func() { metrics.RecordEncryptionConfigAutomaticReloadFailure(e.server) }}
	return f.Watch(ctx)
}

// put puts the file in force.
func (e *Encryption) put(ctx context.Context, _ []byte) error {
	inForce, cancel := context.WithCancel(ctx)
	loaded, err := encryptionconfig.LoadEncryptionConfig(inForce, e.file, true, e.server)
	if err == nil {
		var probe *http.Request
		if probe, err = http.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil); err == nil {
			err = loaded.HealthChecks[0].Check(probe)
		}
	}
	if err != nil {
		cancel()
		return err
	}
	e.dynamic.Set(loaded.Transformers, cancel, loaded.HealthChecks[0], loaded.KMSCloseGracePeriod)
	e.hash = loaded.EncryptionFileContentHash
	return nil
}
