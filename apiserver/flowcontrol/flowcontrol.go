// Package flowcontrol makes the flow schemas and priority levels that every cluster has. The server acts on them only if it is told
// to (--enable-priority-and-fairness), else it limits the number of requests in flight and no more: then they are what clients find on
// any cluster that has flow control off.
package flowcontrol

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/ensure"
)

// manager owns the fields that are written; it is called as upstream's.
const manager = "api-priority-and-fairness-config-producer-v1"

// Reconcile makes what is missing and brings the rest up to date: two lists, and one write for each object that is not as it should
// be. It may run at any time and on several servers at once.
//
// The mandatory objects are always as they should be. The suggested ones are as well, unless a user has changed them or said,
// by annotation apf.kubernetes.io/autoupdate-spec: "false", that they are to be left alone.
func Reconcile(ctx context.Context, client kubernetes.Interface) error {
	if err := ensure.Retry(func() error { return reconcileOnce(ctx, client) }); err != nil {
		return fmt.Errorf("reconcile flow schemas and priority levels: %w", err)
	}
	return nil
}

func reconcileOnce(ctx context.Context, client kubernetes.Interface) error {
	schemas, err := client.FlowcontrolV1().FlowSchemas().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list flow schemas: %w", err)
	}
	levels, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list priority levels: %w", err)
	}
	wantedSchemas, mandatorySchemas := defaults(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas)
	wantedLevels, mandatoryLevels := defaults(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations)
	work := ensure.Objects[flowcontrolv1.FlowSchema, *flowcontrolv1.FlowSchema]{
		Client: client.FlowcontrolV1().FlowSchemas(), Want: wantedSchemas, Have: schemas.Items, Manager: manager,
		Stale: func(have *flowcontrolv1.FlowSchema) bool { return ours(have) == yes },
		Merge: func(have, want *flowcontrolv1.FlowSchema) ensure.Outcome {
			return merge(have, mandatorySchemas[have.Name], &have.Spec, &want.Spec, equality.Semantic.DeepEqual(have.Spec, want.Spec))
		},
	}.Work(ctx)
	return ensure.Run(append(work, ensure.Objects[flowcontrolv1.PriorityLevelConfiguration, *flowcontrolv1.PriorityLevelConfiguration]{
		Client: client.FlowcontrolV1().PriorityLevelConfigurations(), Want: wantedLevels, Have: levels.Items, Manager: manager,
		Stale: func(have *flowcontrolv1.PriorityLevelConfiguration) bool { return ours(have) == yes },
		Merge: func(have, want *flowcontrolv1.PriorityLevelConfiguration) ensure.Outcome {
			return merge(have, mandatoryLevels[have.Name], &have.Spec, &want.Spec, sameLevel(have, want))
		},
	}.Work(ctx)...))
}

// defaults copies the objects, and says which of their names are those of mandatory ones.
func defaults[T any, P interface {
	ensure.Pointer[T]
	DeepCopy() *T
}](mandatory, suggested []P) (objects []T, fixed map[string]bool) {
	fixed = map[string]bool{}
	for _, o := range mandatory {
		fixed[o.GetName()] = true
		objects = append(objects, *o.DeepCopy())
	}
	for _, o := range suggested {
		objects = append(objects, *o.DeepCopy())
	}
	return objects, fixed
}

// sameLevel compares the specs, but for what the administrator may say of the exempt level.
func sameLevel(have, want *flowcontrolv1.PriorityLevelConfiguration) bool {
	spec := want.Spec
	if have.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && have.Spec.Exempt != nil {
		spec.Exempt = have.Spec.Exempt
	}
	return equality.Semantic.DeepEqual(have.Spec, spec)
}

// answer is what an object says of whose it is.
type answer int

const (
	unsaid answer = iota
	yes
	no
)

// ours says whether the object is the cluster's to keep up to date.
func ours(o metav1.Object) answer {
	switch auto, err := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]); {
	case err != nil:
		return unsaid
	case auto:
		return yes
	}
	return no
}

// merge gives the object the spec and the annotation that it should have. Who says nothing and was never changed is the cluster's.
func merge[S any](o metav1.Object, mandatory bool, spec, want *S, same bool) ensure.Outcome {
	said, keep := ours(o), no
	if mandatory || said == yes || said == unsaid && o.GetGeneration() == 1 {
		keep = yes
	}
	outcome := ensure.Fine
	if keep == yes && !same {
		*spec, outcome = *want, ensure.Changed
	}
	if said != keep {
		annotations := maps.Clone(o.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(keep == yes)
		o.SetAnnotations(annotations)
		outcome = ensure.Changed
	}
	return outcome
}
