// Package configuration reads what a user sets of admission plugins: a file of kube-apiserver's form.
package configuration

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	webhookconfig "k8s.io/apiserver/pkg/admission/plugin/webhook/config"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/client-go/tools/clientcmd"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/admission/api/load"
	"k8s.io/pod-security-admission/admission/api/validation"

	"github.com/peapod/peapod/apiserver/admission/podnodeselector"
	"github.com/peapod/peapod/apiserver/optionfile"
)

// Configuration is what the file says. The zero value is what holds without one.
type Configuration struct {
	// PodSecurity has the levels of namespaces that have no labels for them, and who is exempt; nil: privileged, and nobody.
	PodSecurity *podsecurityconfig.PodSecurityConfiguration
	// MutatingWebhooks and ValidatingWebhooks name the kubeconfigs that say who the server is to webhooks, in the form that the
	// plugins read; nil: it is nobody in particular.
	MutatingWebhooks, ValidatingWebhooks []byte
	// PodNodeSelector has the node labels of namespaces.
	PodNodeSelector podnodeselector.Configuration
	// Plugins are those that are on.
	Plugins Plugins
}

// Load checks the options, and what the file says, if there is one. Settings of plugins that take none here are errors, for what is
// asked of them would not be.
func Load(o Options) (Configuration, error) {
	if err := o.Check(); err != nil {
		return Configuration{}, err
	}
	c := Configuration{Plugins: Plugins{o.EnableAdmissionPlugins, o.DisableAdmissionPlugins}}
	if file := o.AdmissionControlConfigFile; file != "" {
		if err := c.load(file); err != nil {
			return Configuration{}, fmt.Errorf("--%s %q: %w", fileFlag, file, err)
		}
	}
	return c, nil
}

func (c *Configuration) load(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	config, err := optionfile.Decode[apiserver.AdmissionConfiguration](data)
	if err != nil {
		return err
	}
	plugins := map[string]func([]byte) error{
		"PodSecurity": c.setPodSecurity,
		podnodeselector.Name: func(b []byte) (err error) {
			c.PodNodeSelector, err = podnodeselector.Parse(b)
			return err
		},
		mutating.PluginName:   func(b []byte) error { c.MutatingWebhooks = b; return checkWebhooks(b) },
		validating.PluginName: func(b []byte) error { c.ValidatingWebhooks = b; return checkWebhooks(b) },
	}
	for i, p := range config.Plugins {
		set := plugins[p.Name]
		if set == nil {
			return fmt.Errorf("plugins[%d].name %q: takes no configuration here; those that do are %s", i, p.Name,
				strings.Join(slices.Sorted(maps.Keys(plugins)), ", "))
		}
		settings, err := settingsOf(p, filepath.Dir(file))
		if err == nil && len(settings) > 0 {
			err = set(settings)
		}
		if err != nil {
			return fmt.Errorf("plugins[%d] (%s): %w", i, p.Name, err)
		}
	}
	return nil
}

// settingsOf are in the file itself, or in one that it names, relative to its own folder.
func settingsOf(p apiserver.AdmissionPluginConfiguration, dir string) ([]byte, error) {
	if p.Configuration != nil {
		return p.Configuration.Raw, nil
	}
	if p.Path == "" {
		return nil, nil
	}
	if !filepath.IsAbs(p.Path) {
		p.Path = filepath.Join(dir, p.Path)
	}
	return os.ReadFile(p.Path)
}

func (c *Configuration) setPodSecurity(settings []byte) (err error) {
	if c.PodSecurity, err = load.LoadFromData(settings); err != nil {
		return err
	}
	return validation.ValidatePodSecurityConfiguration(c.PodSecurity).ToAggregate()
}

// checkWebhooks reads what the plugins read when there is something for them to do, which may be never.
func checkWebhooks(settings []byte) error {
	config, err := webhookconfig.LoadConfig(bytes.NewReader(settings))
	if err != nil {
		return err
	}
	if config.StaticManifestsDir != "" {
		return errors.New("staticManifestsDir: webhooks from files are not supported; create them as objects")
	}
	if config.KubeConfigFile == "" {
		return errors.New("kubeConfigFile: required")
	}
	if _, err := clientcmd.LoadFromFile(config.KubeConfigFile); err != nil {
		return fmt.Errorf("kubeConfigFile: %w", err)
	}
	return nil
}
