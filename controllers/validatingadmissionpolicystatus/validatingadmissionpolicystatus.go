// Package validatingadmissionpolicystatus checks the expressions of validating admission policies against the schemas of the kinds that
// they are about, and writes what it finds into the policies' status: warnings, which change nothing about what the policies do.
package validatingadmissionpolicystatus

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	admissionapply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/kindmapper"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "validatingadmissionpolicy-status-controller"

// manager owns the fields that the controller writes; it is called as upstream's.
const manager = "validatingadmissionpolicy-status"

// New returns the controller. Schemas are read for each policy that changes, which is seldom, and not kept.
func New(d engine.Deps) (engine.Runner, error) {
	policies := d.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	checker := &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: d.Client.Discovery()},
		RestMapper:     kindmapper.New(d.Client.Discovery()),
	}
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		p, err := policies.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read validating admission policy %s: %w", key.Name, err)
		}
		if p.Generation <= p.Status.ObservedGeneration {
			return nil
		}
		_, err = d.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx, status(p, checker.Check(p)),
			metav1.ApplyOptions{FieldManager: manager, Force: true})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write status of validating admission policy %s: %w", key.Name, err)
		}
		return nil
	}
	synced, err := policies.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, fmt.Errorf("watch validating admission policies: %w", err)
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

// status says which generation was checked and what was found.
func status(p *admissionv1.ValidatingAdmissionPolicy, warnings []admissionv1.ExpressionWarning) *admissionapply.ValidatingAdmissionPolicyApplyConfiguration {
	found := admissionapply.TypeChecking()
	for _, w := range warnings {
		found.WithExpressionWarnings(admissionapply.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	return admissionapply.ValidatingAdmissionPolicy(p.Name).WithStatus(admissionapply.ValidatingAdmissionPolicyStatus().
		WithObservedGeneration(p.Generation).WithTypeChecking(found))
}
