package configuration

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/sets"
)

// Options are what a user may set of admission. Names and meanings are kube-apiserver's.
type Options struct {
	// AdmissionControlConfigFile configures plugins.
	AdmissionControlConfigFile string `json:"admissionControlConfigFile,omitempty"`
	// EnableAdmissionPlugins are asked besides those that are by default, DisableAdmissionPlugins are not though they would be.
	EnableAdmissionPlugins  []string `json:"enableAdmissionPlugins,omitempty"`
	DisableAdmissionPlugins []string `json:"disableAdmissionPlugins,omitempty"`
}

const (
	fileFlag    = "admission-control-config-file"
	enableFlag  = "enable-admission-plugins"
	disableFlag = "disable-admission-plugins"
)

// AddFlags adds a flag for each option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.AdmissionControlConfigFile, fileFlag, o.AdmissionControlConfigFile, "file with the configuration of admission plugins")
	f.StringSliceVar(&o.EnableAdmissionPlugins, enableFlag, o.EnableAdmissionPlugins,
		"admission plugins that are on besides the default ones: "+strings.Join(Optional(), ", "))
	f.StringSliceVar(&o.DisableAdmissionPlugins, disableFlag, o.DisableAdmissionPlugins,
		"admission plugins that are off although they are on by default: "+strings.Join(Default(), ", "))
}

// Default are the plugins that are on unless they are disabled: upstream's, and NodeRestriction, which keeps nodes to what is theirs.
func Default() []string {
	return []string{"CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction", "ClusterTrustBundleAttest", "DefaultIngressClass",
		"DefaultStorageClass", "DefaultTolerationSeconds", "LimitRanger", "MutatingAdmissionPolicy", "MutatingAdmissionWebhook",
		"NamespaceLifecycle", "NodeDeclaredFeatureValidator", "NodeRestriction", "PersistentVolumeClaimResize", "PodResizeValidator", "PodSecurity",
		"PodTopologyLabels", "Priority", "ResourceQuota", "RuntimeClass", "ServiceAccount", "StorageObjectInUseProtection", "TaintNodesByCondition",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook"}
}

// Optional are the plugins that are off unless they are enabled.
func Optional() []string {
	return []string{"AlwaysPullImages", "DenyServiceExternalIPs", "LimitPodHardAntiAffinityTopology", "PodNodeSelector"}
}

// missing are kube-apiserver's plugins that are not here.
func missing() []string {
	return []string{"AlwaysAdmit", "AlwaysDeny", "EventRateLimit", "ExtendedResourceToleration", "ImagePolicyWebhook", "JobValidation",
		"NamespaceAutoProvision", "NamespaceExists", "OwnerReferencesPermissionEnforcement", "PodGroupProtection", "PodGroupWorkloadExists",
		"PodTolerationRestriction"}
}

// Check checks the names of plugins. What is not here may be disabled, since it is off.
func (o Options) Check() error {
	here := append(Default(), Optional()...)
	slices.Sort(here)
	var errs []error
	for _, name := range o.EnableAdmissionPlugins {
		switch {
		case slices.Contains(missing(), name):
			errs = append(errs, fmt.Errorf("--%s plugin %q is not part of Peapod; there are %s", enableFlag, name, strings.Join(here, ", ")))
		case !slices.Contains(here, name):
			errs = append(errs, unknown(enableFlag, name, here))
		}
	}
	for _, name := range o.DisableAdmissionPlugins {
		if !slices.Contains(here, name) && !slices.Contains(missing(), name) {
			errs = append(errs, unknown(disableFlag, name, here))
		}
	}
	if both := sets.New(o.EnableAdmissionPlugins...).Intersection(sets.New(o.DisableAdmissionPlugins...)); len(both) > 0 {
		errs = append(errs, fmt.Errorf("%v in --%s and --%s overlapped; leave each in one of them", sets.List(both), enableFlag, disableFlag))
	}
	return errors.Join(errs...)
}

func unknown(flag, name string, known []string) error {
	return fmt.Errorf("--%s plugin %q is unknown; there are %s", flag, name, strings.Join(known, ", "))
}

// Plugins says which plugins are on. Its zero value has the default ones on.
type Plugins struct{ enabled, disabled []string }

// On says whether the plugin of that name is on.
func (p Plugins) On(name string) bool {
	return !slices.Contains(p.disabled, name) && (slices.Contains(p.enabled, name) || slices.Contains(Default(), name))
}
