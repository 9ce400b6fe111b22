package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/resource"
)

// maxDisrupted bounds the evictions that a budget's controller has not seen happen yet.
const maxDisrupted = 2000

// evictionREST deletes a Pod if its disruption budget allows that.
type evictionREST struct {
	pods *genericregistry.Store
	env  resource.Env
}

var (
	_ rest.NamedCreater             = (*evictionREST)(nil)
	_ rest.GroupVersionKindProvider = (*evictionREST)(nil)
	_ rest.GroupVersionAcceptor     = (*evictionREST)(nil)
)

func (r *evictionREST) New() runtime.Object { return &policyv1.Eviction{} }
func (r *evictionREST) Destroy()            {}

func (r *evictionREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (r *evictionREST) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

func (r *evictionREST) Create(ctx context.Context, name string, obj runtime.Object, valid rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	e, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != e.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options, err := deleteOptions(e, o)
	if err != nil {
		return nil, err
	}
	p, err := get(ctx, r.pods, name)
	if err != nil {
		return nil, err
	}
	if valid != nil {
		if err := valid(ctx, e.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if !beyondBudgets(p) {
		if err := r.checkBudget(ctx, p, dryrun.IsDryRun(options.DryRun)); err != nil {
			return nil, err
		}
		// What the budget said holds for this Pod, not for another of its name.
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		if options.Preconditions.UID == nil {
			options.Preconditions.UID = &p.UID
		}
	}
	if !dryrun.IsDryRun(options.DryRun) {
		if err := r.mark(ctx, p, options); err != nil {
			return nil, err
		}
	}
	if _, _, err := r.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, options); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// mark says in the Pod's status that it is disrupted, before it is deleted: Jobs may ignore such failures. Where the eviction
// is for one version of the Pod, it is for the one that this makes.
func (r *evictionREST) mark(ctx context.Context, p *corev1.Pod, options *metav1.DeleteOptions) error {
	key, err := r.pods.KeyFunc(ctx, p.Name)
	if err != nil {
		return err
	}
	var conditions storage.Preconditions
	if c := options.Preconditions; c != nil {
		conditions.UID, conditions.ResourceVersion = c.UID, c.ResourceVersion
	}
	marked := &corev1.Pod{}
	err = r.pods.Storage.GuaranteedUpdate(ctx, key, marked, false, &conditions, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		disrupted := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"}
		s := &obj.(*corev1.Pod).Status
		i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == disrupted.Type })
		if i < 0 {
			s.Conditions = append(s.Conditions, disrupted)
			return obj, nil
		}
		if s.Conditions[i].Status == disrupted.Status {
			disrupted.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
		s.Conditions[i] = disrupted
		return obj, nil
	}), false, nil)
	if err != nil {
		return storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, corev1.Resource("pods"), p.Name), corev1.Resource("pods"), p.Name)
	}
	if conditions.ResourceVersion != nil {
		options.Preconditions.ResourceVersion = &marked.ResourceVersion
	}
	return nil
}

// deleteOptions are those of the eviction, as dry as the request.
func deleteOptions(e *policyv1.Eviction, o *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	if e.DeleteOptions != nil {
		options = e.DeleteOptions.DeepCopy()
	}
	switch {
	case len(options.DryRun) == 0:
		options.DryRun = o.DryRun
	case len(o.DryRun) == 0:
	case !slices.Equal(options.DryRun, o.DryRun):
		//lint:ignore ST1005 the API's text
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", o.DryRun, options.DryRun)
	}
	return options, nil
}

// beyondBudgets says that ending p disrupts nothing: it has ended, has not begun, or is ending already.
func beyondBudgets(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodPending ||
		!p.DeletionTimestamp.IsZero()
}

func (r *evictionREST) checkBudget(ctx context.Context, p *corev1.Pod, dry bool) error {
	budgets := r.env.Store(schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudgets"})
	if budgets == nil {
		return nil
	}
	matching, err := budgetsOf(ctx, budgets, p)
	if err != nil || len(matching) == 0 {
		return err
	}
	if len(matching) > 1 {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonInternalError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	if needless(matching[0], p) {
		return nil
	}
	return spend(ctx, budgets, matching[0].Name, p.Name, dry)
}

func budgetsOf(ctx context.Context, budgets *genericregistry.Store, p *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	list, err := budgets.List(ctx, &metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var matching []*policyv1.PodDisruptionBudget
	err = meta.EachListItem(list, func(obj runtime.Object) error {
		b := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			return nil // A budget with a bad selector, which older rules let in, selects nothing.
		}
		if selector.Matches(labels.Set(p.Labels)) {
			matching = append(matching, b)
		}
		return nil
	})
	return matching, err
}

// needless says that b does not guard p, which is not ready.
func needless(b *policyv1.PodDisruptionBudget, p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if policy := b.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// spend takes one disruption of the budget.
func spend(ctx context.Context, budgets *genericregistry.Store, budget, pod string, dry bool) error {
	key, err := budgets.KeyFunc(ctx, budget)
	if err != nil {
		return err
	}
	gr := policyv1.Resource("poddisruptionbudgets")
	err = budgets.Storage.GuaranteedUpdate(ctx, key, &policyv1.PodDisruptionBudget{}, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			b := obj.(*policyv1.PodDisruptionBudget)
			if err := disrupt(b, pod); err != nil {
				return nil, err
			}
			return b, nil
		}), dry, nil)
	return storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, gr, budget), gr, budget)
}

func disrupt(b *policyv1.PodDisruptionBudget, pod string) error {
	gr := policyv1.Resource("poddisruptionbudget")
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return tooMany(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case b.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(gr, b.Name, errors.New("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(gr, b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return tooMany(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently",
			b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
			ObservedGeneration: b.Status.ObservedGeneration,
		})
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = metav1.Time{Time: time.Now()}
	return nil
}

func tooMany(retrySeconds int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retrySeconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}
