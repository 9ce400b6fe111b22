// Package certificates guards what speaks for signers: who approves a request for one must be allowed to approve for it,
// who signs must be allowed to sign for it, who publishes its trust anchors to attest for it, and nobody asks for the
// power over everything.
package certificates

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/peapod/peapod/internal/csr"
)

// Plugin does what Kubernetes' plugins CertificateApproval, CertificateSigning, CertificateSubjectRestriction and
// ClusterTrustBundleAttest do, and what its storage of PodCertificateRequests asks of those who sign them.
type Plugin struct {
	*admission.Handler
	authorizer authorizer.Authorizer
	on         func(name string) bool
}

var _ admission.ValidationInterface = &Plugin{}

// Names are those of Kubernetes' plugins of which this one does the work.
const (
	Approval           = "CertificateApproval"
	Signing            = "CertificateSigning"
	SubjectRestriction = "CertificateSubjectRestriction"
	Attest             = "ClusterTrustBundleAttest"
)

// New makes the plugin; on says which of Kubernetes' plugins are wanted.
func New(authorizer authorizer.Authorizer, on func(name string) bool) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), authorizer, on}
}

// Validate refuses what the user may not do.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch a.GetResource().GroupResource() {
	case certificatesv1.Resource("certificatesigningrequests"):
		return p.signingRequest(ctx, a)
	case certificatesv1.Resource("clustertrustbundles"):
		return p.trustBundle(ctx, a)
	case certificatesv1.Resource("podcertificaterequests"):
		return p.podRequest(ctx, a)
	}
	return nil
}

func (p *Plugin) signingRequest(ctx context.Context, a admission.Attributes) error {
	now, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if a.GetOperation() == admission.Create && a.GetSubresource() == "" {
		if !p.on(SubjectRestriction) {
			return nil
		}
		return restrictSubject(a, now)
	}
	old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	switch sub := a.GetSubresource(); {
	case sub == "approval" && p.on(Approval):
		return p.allowed(ctx, a, "approve", old.Spec.SignerName)
	case sub == "status" && p.on(Signing):
		if equality.Semantic.DeepEqual(now.Status, old.Status) {
			return nil
		}
		return p.allowed(ctx, a, "sign", old.Spec.SignerName)
	}
	return nil
}

// trustBundle asks whether the user may attest for the signer whose anchors these are, or were.
func (p *Plugin) trustBundle(ctx context.Context, a admission.Attributes) error {
	now, ok := a.GetObject().(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if old, ok := a.GetOldObject().(*certificatesv1.ClusterTrustBundle); ok && equality.Semantic.DeepEqual(now, old) {
		return nil
	}
	if now.Spec.SignerName == "" || !p.on(Attest) {
		return nil
	}
	if err := p.allowed(ctx, a, "attest", now.Spec.SignerName); err != nil {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", now.Spec.SignerName))
	}
	return nil
}

func (p *Plugin) podRequest(ctx context.Context, a admission.Attributes) error {
	if a.GetOperation() != admission.Update || a.GetSubresource() != "status" {
		return nil
	}
	now, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	old, ok := a.GetOldObject().(*certificatesv1.PodCertificateRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetOldObject()))
	}
	if equality.Semantic.DeepEqual(now.Status, old.Status) {
		return nil
	}
	return p.allowed(ctx, a, "sign", old.Spec.SignerName)
}

// allowed asks for the verb on the signer, or on all signers of its domain.
func (p *Plugin) allowed(ctx context.Context, a admission.Attributes, verb, signer string) error {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: verb, Name: name, Resource: "signers",
			APIGroup: certificatesv1.GroupName, APIVersion: "*", ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
		if err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to %s requests with signerName %q", verb, signer))
}

// restrictSubject refuses client certificates of system:masters, whoever would approve them.
func restrictSubject(a admission.Attributes, request *certificatesv1.CertificateSigningRequest) error {
	if request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := csr.Parse(request.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("parse certificate request: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed",
			certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
	}
	return nil
}
