package hook

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	v "github.com/peapod/peapod/api/validation"
)

const (
	defaultTimeout = 10
	maxTimeout     = 30
	defaultPort    = 443
)

// harmless are the side effects that a webhook may have: none on a dry run at least.
var harmless = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}

// reviewVersions are those in which the server can ask.
var reviewVersions = []string{"v1", "v1beta1"}

// DefaultWebhook fills in what a webhook of either kind does not say; a validating one leaves the policy of reinvocation aside.
func DefaultWebhook(w *admissionv1.MutatingWebhook) {
	DefaultFailurePolicy(&w.FailurePolicy)
	if w.MatchPolicy == nil {
		w.MatchPolicy = ptr.To(admissionv1.Equivalent)
	}
	if w.NamespaceSelector == nil {
		w.NamespaceSelector = &metav1.LabelSelector{}
	}
	if w.ObjectSelector == nil {
		w.ObjectSelector = &metav1.LabelSelector{}
	}
	if w.TimeoutSeconds == nil {
		w.TimeoutSeconds = ptr.To[int32](defaultTimeout)
	}
	if w.ReinvocationPolicy == nil {
		w.ReinvocationPolicy = ptr.To(admissionv1.NeverReinvocationPolicy)
	}
	if s := w.ClientConfig.Service; s != nil && s.Port == nil {
		s.Port = ptr.To[int32](defaultPort)
	}
	for i := range w.Rules {
		DefaultRule(&w.Rules[i].Rule)
	}
}

// CheckWebhooks checks the webhooks of one configuration, which replace old ones. What old ones were let by with, the new ones are.
func CheckWebhooks(list, old []admissionv1.MutatingWebhook) field.ErrorList {
	names := sets.New[string]()
	lax := laxness(old)
	e := NewExpressions(false, conditionsOf(old)...)
	checked := len(list) == len(old) && slices.EqualFunc(list, old, func(a, b admissionv1.MutatingWebhook) bool {
		return equality.Semantic.DeepEqual(a.MatchConditions, b.MatchConditions)
	})
	var errs field.ErrorList
	for i := range list {
		w, path := &list[i], Webhooks.Index(i)
		errs = append(errs, lax.webhook(w, path)...)
		if !checked {
			errs = append(errs, e.Conditions(w.MatchConditions, path.Child("matchConditions"))...)
		}
		errs = append(errs, lax.reviewVersions(w.AdmissionReviewVersions, path.Child("admissionReviewVersions"))...)
		if !lax.names && w.Name != "" && names.Has(w.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), w.Name))
		}
		names.Insert(w.Name)
	}
	return errs
}

func conditionsOf(list []admissionv1.MutatingWebhook) []string {
	var out []string
	for _, w := range list {
		for _, c := range w.MatchConditions {
			out = append(out, strings.TrimSpace(c.Expression))
		}
	}
	return out
}

// lax is what is overlooked since the object that is replaced has it.
type lax struct{ names, effects, versions, labels bool }

func laxness(old []admissionv1.MutatingWebhook) lax {
	var l lax
	names := sets.New[string]()
	for _, w := range old {
		l.names = l.names || names.Has(w.Name)
		names.Insert(w.Name)
		l.effects = l.effects || w.SideEffects == nil || !slices.Contains(harmless, *w.SideEffects)
		l.versions = l.versions || len(w.AdmissionReviewVersions) > 0 && !anyKnown(w.AdmissionReviewVersions)
		for _, s := range []*metav1.LabelSelector{w.NamespaceSelector, w.ObjectSelector} {
			l.labels = l.labels || len(v.LabelSelector(s, false, nil)) > 0
		}
	}
	return l
}

func anyKnown(versions []string) bool {
	return slices.ContainsFunc(versions, func(s string) bool { return slices.Contains(reviewVersions, s) })
}

func (l lax) webhook(w *admissionv1.MutatingWebhook, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, Rule(&w.Rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, v.OptionalEnum(w.FailurePolicy, path.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	errs = append(errs, v.OptionalEnum(w.MatchPolicy, path.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	errs = append(errs, l.sideEffects(w.SideEffects, path.Child("sideEffects"))...)
	if t := w.TimeoutSeconds; t != nil && (*t < 1 || *t > maxTimeout) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, v.LabelSelector(w.NamespaceSelector, l.labels, path.Child("namespaceSelector"))...)
	errs = append(errs, v.LabelSelector(w.ObjectSelector, l.labels, path.Child("objectSelector"))...)
	if w.ReinvocationPolicy != nil {
		errs = append(errs, v.Supported(*w.ReinvocationPolicy, path.Child("reinvocationPolicy"),
			admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
	}
	return append(errs, client(w.ClientConfig, path.Child("clientConfig"))...)
}

func (l lax) sideEffects(class *admissionv1.SideEffectClass, path *field.Path) field.ErrorList {
	allowed := harmless
	if l.effects {
		allowed = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun,
			admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown}
	}
	if class != nil {
		return v.Supported(*class, path, allowed...)
	}
	var names []string
	for _, c := range allowed {
		names = append(names, string(c))
	}
	return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(names, ", "))}
}

func (l lax) reviewVersions(versions []string, path *field.Path) field.ErrorList {
	known := strings.Join(reviewVersions, ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+known)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, version := range versions {
		if seen.Has(version) {
			errs = append(errs, field.Invalid(path.Index(i), version, "duplicate version"))
			continue
		}
		seen.Insert(version)
		errs = append(errs, v.Messages(validation.IsDNS1035Label(version), version, path.Index(i))...)
	}
	if !l.versions && !anyKnown(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+known))
	}
	return errs
}

// client checks where a webhook is.
func client(c admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	}
	s := c.Service
	return webhook.ValidateWebhookService(path.Child("service"), s.Namespace, s.Name, s.Path, ptr.Deref(s.Port, defaultPort))
}

// WebhookWarnings tells of rules that have no effect, since webhooks are never asked about what they name.
func WebhookWarnings(list []admissionv1.MutatingWebhook) []string {
	never := sets.New(resource.Reviews()...)
	var out []string
	for i := range list {
		for j, r := range list[i].Rules {
			if slices.Contains(r.APIGroups, wildcard) || slices.Contains(r.APIVersions, wildcard) || slices.Contains(r.Resources, wildcard) {
				continue // meant for others, or so it seems
			}
			seen := sets.New[schema.GroupResource]()
			for _, group := range r.APIGroups {
				for _, name := range r.Resources {
					gr := schema.GroupResource{Group: group, Resource: name}
					if never.Has(gr) && !seen.Has(gr) {
						seen.Insert(gr)
						at := Webhooks.Index(i).Child("rules").Index(j)
						out = append(out, at.String()+": "+gr.String()+" is excluded from admission webhooks; this rule will have no effect")
					}
				}
			}
		}
	}
	return out
}
