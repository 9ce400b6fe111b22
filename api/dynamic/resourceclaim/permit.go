package resourceclaim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource"
)

// PermitStatus keeps the parts of the status to those they are for: administrators' access to namespaces that have it, allocation and
// reservation to who may write the made-up subresource "binding" (scheduler and claim controller), and what is told of a device to
// its driver, whose name is that of an object of the made-up subresource "driver".
func (kind) PermitStatus(ctx context.Context, env resource.Env, obj, old *resourcev1.ResourceClaim) field.ErrorList {
	is, was, path := &obj.Status, &old.Status, field.NewPath("status")
	errs := device.AdminResults(ctx, env, obj.Namespace, is.Allocation, was.Allocation)
	bound := !equality.Semantic.DeepEqual(is.Allocation, was.Allocation) || !equality.Semantic.DeepEqual(is.ReservedFor, was.ReservedFor)
	var drivers []string
	if is.Allocation != nil {
		drivers = changedDrivers(is.Devices, was.Devices)
	}
	if !bound && len(drivers) == 0 {
		return errs
	}
	who, err := attributes(ctx)
	if err != nil {
		return append(errs, field.InternalError(path, fmt.Errorf("cannot build authorizer attributes: %w", err)))
	}
	if bound {
		ask := who
		ask.Subresource, ask.Namespace, ask.Name = resourcev1.SubresourceBinding, "", ""
		if err := authorize(ctx, env.Authorizer, ask); err != nil {
			errs = append(errs, field.Forbidden(path.Child("allocation"),
				fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, ask.Verb, err)))
		}
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + who.Verb}
	if onNode(who.User, nodeOf(is.Allocation)) {
		verbs = slices.Insert(verbs, 0, resourcev1.VerbPrefixAssociatedNode+who.Verb)
	}
	for _, driver := range drivers {
		if err := authorizeDriver(ctx, env.Authorizer, who, verbs, driver); err != nil {
			errs = append(errs, field.Forbidden(path.Child("devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, err)))
		}
	}
	return errs
}

// attributes are those of the request that is being answered.
func attributes(ctx context.Context) (authorizer.AttributesRecord, error) {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return authorizer.AttributesRecord{}, errors.New("no RequestInfo found in the context")
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return authorizer.AttributesRecord{}, errors.New("no user found in the context")
	}
	return authorizer.AttributesRecord{User: u, Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name, ResourceRequest: true, Path: info.Path}, nil
}

// authorizeDriver asks for one verb after the other; one is enough. The first refusal is the one that is told.
func authorizeDriver(ctx context.Context, a authorizer.Authorizer, who authorizer.AttributesRecord, verbs []string, driver string) error {
	var first error
	for _, verb := range verbs {
		ask := who
		ask.Verb, ask.Subresource, ask.Name = verb, resourcev1.SubresourceDriver, driver
		err := authorize(ctx, a, ask)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// authorize returns nil if the authorizer allows it, whatever errors it met on its way.
func authorize(ctx context.Context, a authorizer.Authorizer, ask authorizer.AttributesRecord) error {
	decision, reason, err := a.Authorize(ctx, ask)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil && reason != "":
		reason = fmt.Sprintf("%v: %s", err, reason)
	case err != nil:
		reason = err.Error()
	}
	return responsewriters.ForbiddenStatusError(ask, reason)
}

// changedDrivers lists, sorted, the drivers of devices of which something else is told than before.
func changedDrivers(is, was []resourcev1.AllocatedDeviceStatus) []string {
	before := map[id]*resourcev1.AllocatedDeviceStatus{}
	for i := range was {
		before[statusID(&was[i])] = &was[i]
	}
	drivers := sets.New[string]()
	for i := range is {
		key := statusID(&is[i])
		if old := before[key]; old == nil || !equality.Semantic.DeepEqual(*old, is[i]) {
			drivers.Insert(is[i].Driver)
		}
		delete(before, key)
	}
	for _, gone := range before {
		drivers.Insert(gone.Driver)
	}
	return sets.List(drivers)
}

// nodeOf returns the node that an allocation is bound to, empty if it is to none or to several.
func nodeOf(a *resourcev1.AllocationResult) string {
	if a == nil || a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// onNode says whether u is a service account whose token is bound to the node.
func onNode(u user.Info, node string) bool {
	if node == "" {
		return false
	}
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil {
		return false
	}
	return slices.Equal(u.GetExtra()[serviceaccount.NodeNameKey], []string{node})
}
