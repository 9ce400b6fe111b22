// Package podsecurity holds Pods to the Pod Security Standard that their namespace asks for by its labels, and where it asks for none to
// the one of the configuration: privileged, which allows everything, unless a user has set another.
package podsecurity

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurityadmission "k8s.io/pod-security-admission/admission"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	podsecuritymetrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// Plugin is the admission plugin PodSecurity.
type Plugin struct {
	*admission.Handler
	delegate *podsecurityadmission.Admission
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin. The configuration says what holds where labels say nothing, and who is exempt; nil: privileged, and nobody.
func New(client kubernetes.Interface, namespaces corelisters.NamespaceLister, pods corelisters.PodLister,
	config *podsecurityconfig.PodSecurityConfiguration) (*Plugin, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("make Pod security policies: %w", err)
	}
	recorder := podsecuritymetrics.NewPrometheusRecorder(podsecurityapi.GetAPIVersion())
	recorder.MustRegister(func(list ...metrics.Registerable) {
		for _, m := range list {
			// A second server in the process goes without metrics of its own.
			_ = legacyregistry.Register(m)
		}
	})
	if config == nil {
		privileged, latest := string(podsecurityapi.LevelPrivileged), podsecurityapi.VersionLatest
		config = &podsecurityconfig.PodSecurityConfiguration{Defaults: podsecurityconfig.PodSecurityDefaults{
			Enforce: privileged, EnforceVersion: latest, Audit: privileged, AuditVersion: latest, Warn: privileged, WarnVersion: latest}}
	}
	delegate := &podsecurityadmission.Admission{
		Configuration:    config,
		Evaluator:        evaluator,
		Metrics:          recorder,
		PodSpecExtractor: podsecurityadmission.DefaultPodSpecExtractor{},
		NamespaceGetter:  podsecurityadmission.NamespaceGetterFromListerAndClient(namespaces, client),
		PodLister:        podsecurityadmission.PodListerFromInformer(pods),
	}
	if err := errors.Join(delegate.CompleteConfiguration(), delegate.ValidateConfiguration()); err != nil {
		return nil, fmt.Errorf("configure Pod security: %w", err)
	}
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), delegate}, nil
}

// Validate judges namespaces, Pods, and what Pods are made from.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != corev1.Resource("namespaces") && !p.delegate.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	response := p.delegate.Validate(ctx, attributes{a})
	for _, w := range response.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range response.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+k, v)
	}
	if response.Allowed {
		return nil
	}
	return refusal(a, response)
}

func refusal(a admission.Attributes, response *admissionv1.AdmissionResponse) error {
	err := admission.NewForbidden(a, errors.New("not allowed by PodSecurity"))
	var status *apierrors.StatusError
	if r := response.Result; r != nil && errors.As(err, &status) {
		if r.Message != "" {
			status.ErrStatus.Message = r.Message
		}
		if r.Reason != "" {
			status.ErrStatus.Reason = r.Reason
		}
		if r.Details != nil {
			status.ErrStatus.Details = r.Details
		}
		if r.Code != 0 {
			status.ErrStatus.Code = r.Code
		}
	}
	return err
}

// attributes are those of the request in the form that the library wants.
type attributes struct{ a admission.Attributes }

var _ podsecurityapi.Attributes = attributes{}

func (t attributes) GetName() string                          { return t.a.GetName() }
func (t attributes) GetNamespace() string                     { return t.a.GetNamespace() }
func (t attributes) GetResource() schema.GroupVersionResource { return t.a.GetResource() }
func (t attributes) GetKind() schema.GroupVersionKind         { return t.a.GetKind() }
func (t attributes) GetSubresource() string                   { return t.a.GetSubresource() }
func (t attributes) GetUserName() string                      { return t.a.GetUserInfo().GetName() }
func (t attributes) GetObject() (runtime.Object, error)       { return t.a.GetObject(), nil }
func (t attributes) GetOldObject() (runtime.Object, error)    { return t.a.GetOldObject(), nil }

func (t attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(t.a.GetOperation())
}
