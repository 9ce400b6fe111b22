package noderestriction

import (
	"context"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/peapod/peapod/apiserver/authz/node"
)

// pod lets a node make mirror Pods and delete Pods, on itself.
func (p *Plugin) pod(ctx context.Context, r request) error {
	switch r.GetOperation() {
	case admission.Create:
		return p.mirrorPod(ctx, r)
	case admission.Delete:
		pod, err := p.podOn(ctx, r, r.GetName())
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != r.node {
			return r.forbid("node %q can only delete pods with spec.nodeName set to itself", r.node)
		}
		return nil
	}
	return r.forbid("unexpected operation %q, node %q can only create and delete mirror pods", r.GetOperation(), r.node)
}

func (p *Plugin) mirrorPod(ctx context.Context, r request) error {
	pod, ok := r.GetObject().(*corev1.Pod)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return r.forbid("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, r.node)
	}
	if pod.Spec.NodeName != r.node {
		return r.forbid("node %q can only create pods with spec.nodeName set to itself", r.node)
	}
	if err := p.mirrorOwner(ctx, r, pod); err != nil {
		return err
	}
	return mirrorReferences(r, pod)
}

// mirrorOwner wants the node to be the only owner.
func (p *Plugin) mirrorOwner(ctx context.Context, r request, pod *corev1.Pod) error {
	switch len(pod.OwnerReferences) {
	case 0:
		return r.forbid("node %q can only create pods with an owner reference set to itself", r.node)
	case 1:
	default:
		return r.forbid("node %q can only create pods with a single owner reference set to itself", r.node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != r.node:
		return r.forbid("node %q can only create pods with an owner reference set to itself", r.node)
	case owner.Controller == nil || !*owner.Controller:
		return r.forbid("node %q can only create pods with a controller owner reference set to itself", r.node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return r.forbid("node %q must not set blockOwnerDeletion on an owner reference", r.node)
	}
	uid, err := p.nodeUID(ctx, r, owner.UID)
	if err != nil {
		return err
	}
	if uid != owner.UID {
		return r.forbid("node %s UID mismatch: expected %s got %s", r.node, owner.UID, uid)
	}
	return nil
}

// nodeUID returns the UID of the node's own object. The API is asked where the lister knows another one than is claimed: it
// may be late.
func (p *Plugin) nodeUID(ctx context.Context, r request, claimed types.UID) (types.UID, error) {
	itself, err := p.nodes.Get(r.node)
	if err != nil || itself.UID != claimed {
		itself, err = p.client.CoreV1().Nodes().Get(ctx, r.node, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return "", err
	case err != nil:
		return "", r.forbid("error looking up node %s to verify uid: %w", r.node, err)
	}
	return itself.UID, nil
}

// mirrorReferences wants the Pod to refer to no object of the API: by such a Pod a node would get at any of them.
func mirrorReferences(r request, pod *corev1.Pod) error {
	names := map[string]string{"serviceaccounts": "a service account", "secrets": "secrets", "configmaps": "configmaps",
		"persistentvolumeclaims": "persistentvolumeclaims", "resourceclaims": "resourceclaims"}
	for resource := range node.References(pod) {
		return r.forbid("node %q can not create pods that reference %s", r.node, names[resource])
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ClusterTrustBundle != nil {
				return r.forbid("node %q can not create pods that reference clustertrustbundles", r.node)
			}
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return r.forbid("node %q can not create pods that reference resourceclaims", r.node)
	}
	return nil
}

// podStatus lets a node report on its Pods, and nothing else by the way.
func podStatus(r request) error {
	if r.GetOperation() != admission.Update {
		return r.forbid("unexpected operation %q", r.GetOperation())
	}
	old, ok := r.GetOldObject().(*corev1.Pod)
	if !ok {
		return r.mistyped(r.GetOldObject())
	}
	if old.Spec.NodeName != r.node {
		return r.forbid("node %q can only update pod status for pods with spec.nodeName set to itself", r.node)
	}
	pod, ok := r.GetObject().(*corev1.Pod)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	switch {
	case !labels.Equals(old.Labels, pod.Labels):
		return r.forbid("node %q cannot update labels through pod status", r.node)
	// By a claim that it named there a node would get at the claim.
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return r.forbid("node %q cannot update resource claim statues", r.node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return r.forbid("node %q cannot update extended resource claim status", r.node)
	}
	return nil
}

func (p *Plugin) eviction(ctx context.Context, r request) error {
	if r.GetOperation() != admission.Create {
		return r.forbid("unexpected operation %s", r.GetOperation())
	}
	eviction, ok := r.GetObject().(*policyv1.Eviction)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	name := r.GetName()
	if name == "" {
		name = eviction.Name
	}
	if name == "" {
		return r.forbid("could not determine pod from request data")
	}
	pod, err := p.podOn(ctx, r, name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != r.node {
		return r.forbid("node %s can only evict pods with spec.nodeName set to itself", r.node)
	}
	return nil
}

// claimStatus lets a node say how far it got with growing a volume.
func claimStatus(r request) error {
	if r.GetOperation() != admission.Update {
		return r.forbid("unexpected operation %q", r.GetOperation())
	}
	strip := func(obj any) (*corev1.PersistentVolumeClaim, bool) {
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok {
			return nil, false
		}
		claim = claim.DeepCopy()
		claim.ResourceVersion, claim.ManagedFields = "", nil
		claim.Status.Capacity, claim.Status.Conditions = nil, nil
		claim.Status.AllocatedResourceStatuses, claim.Status.AllocatedResources = nil, nil
		return claim, true
	}
	old, ok := strip(r.GetOldObject())
	if !ok {
		return r.mistyped(r.GetOldObject())
	}
	now, ok := strip(r.GetObject())
	if !ok {
		return r.mistyped(r.GetObject())
	}
	if !equality.Semantic.DeepEqual(old, now) {
		return r.forbid("node %q is not allowed to update fields other than status.capacity and status.conditions", r.node)
	}
	return nil
}

// token lets a node have tokens for its Pods: bound to them, and for the audiences that they ask for.
func (p *Plugin) token(ctx context.Context, r request) error {
	if r.GetOperation() != admission.Create || r.GetSubresource() != "token" {
		return nil
	}
	req, ok := r.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return r.mistyped(r.GetObject())
	}
	ref := req.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return r.forbid("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return r.forbid("node requested token with a pod binding without a uid")
	}
	pod, err := p.podOn(ctx, r, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return r.forbid("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != r.node {
		return r.forbid("node requested token bound to a pod scheduled on a different node")
	}
	return p.audience(ctx, r, req.Spec.Audiences, pod)
}

// audience wants the Pod to ask for the audience, or the driver of one of its volumes, or the node to be allowed to by role.
func (p *Plugin) audience(ctx context.Context, r request, audiences []string, pod *corev1.Pod) error {
	wanted := ""
	switch len(audiences) {
	case 0:
	case 1:
		wanted = audiences[0]
	default:
		return r.forbid("node may only request 0 or 1 audiences")
	}
	asks := func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == wanted
		})
	}
	if slices.ContainsFunc(pod.Spec.Volumes, asks) {
		return nil
	}
	if ok, err := p.driverAsks(ctx, pod, wanted); err != nil {
		return r.forbid("error validating audience %q: %w", wanted, err)
	} else if ok {
		return nil
	}
	decision, reason, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{User: r.GetUserInfo(),
		Verb: "request-serviceaccounts-token-audience", Namespace: r.GetNamespace(), APIGroup: "", APIVersion: "v1",
		Resource: wanted, Name: r.GetName(), ResourceRequest: true})
	if err != nil || decision != authorizer.DecisionAllow {
		if reason != "" {
			return r.forbid("audience %q not found in pod spec volume, %s", wanted, reason)
		}
		return r.forbid("audience %q not found in pod spec volume", wanted)
	}
	return nil
}
