// Package revision keeps the history of a Pod template in ControllerRevisions, for controllers that update Pods in place of
// ReplicaSets: what `kubectl rollout history|undo` reads.
package revision

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/claim"
)

// History is the revisions of owners of one kind.
type History struct {
	Client kubernetes.Interface
	Lister appslisters.ControllerRevisionLister
	Kind   schema.GroupVersionKind
}

// List returns the owner's revisions, the oldest first; those that match its selector and nobody owns are adopted.
func (h *History) List(ctx context.Context, owner metav1.Object, selector labels.Selector, fresh func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	list, err := h.Lister.ControllerRevisions(owner.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	want := claim.Claim[*appsv1.ControllerRevision]{Owner: owner, Kind: h.Kind, Selector: selector, Fresh: fresh,
		Patch: func(ctx context.Context, namespace, name string, body []byte) error {
			_, err := h.Client.AppsV1().ControllerRevisions(namespace).Patch(ctx, name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
			return err
		}}
	for _, r := range list {
		switch ref := metav1.GetControllerOfNoCopy(r); {
		case ref == nil:
			want.Free = append(want.Free, r)
		case ref.UID == owner.GetUID():
			want.Owned = append(want.Owned, r)
		}
	}
	mine, err := want.Run(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim revisions: %w", err)
	}
	slices.SortStableFunc(mine, compare)
	return mine, nil
}

func compare(a, b *appsv1.ControllerRevision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// Data is a template as a revision holds it: a patch that puts it back.
func Data(t *corev1.PodTemplateSpec) ([]byte, error) {
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// Template is the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var held struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &held); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", r.Name, err)
	}
	return &held.Spec.Template, nil
}

// Ensure returns the revision of the owner's template, and makes it, or the newest again, where it is not. revisions are the
// owner's, the oldest first. collisions counts names that were taken; where it has to be raised the answer is a revision of
// the next name.
func (h *History) Ensure(ctx context.Context, owner metav1.Object, t *corev1.PodTemplateSpec, revisions []*appsv1.ControllerRevision, collisions **int32) (*appsv1.ControllerRevision, error) {
	data, err := Data(t)
	if err != nil {
		return nil, err
	}
	next := int64(1)
	if n := len(revisions); n > 0 {
		next = revisions[n-1].Revision + 1
	}
	for i, r := range slices.Backward(revisions) {
		if !sameData(r.Data.Raw, data) {
			continue
		}
		if i == len(revisions)-1 {
			return r, nil
		}
		return h.raise(ctx, r, next)
	}
	for {
		hash := hashOf(data, *collisions)
		r := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Name: owner.GetName() + "-" + hash, Namespace: owner.GetNamespace(), Labels: maps.Clone(t.Labels), Annotations: maps.Clone(owner.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, h.Kind)},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: next,
		}
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
		made, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return made, wrap("create revision", r.Name, err)
		}
		have, err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return nil, wrap("read revision", r.Name, err)
		}
		if metav1.IsControlledBy(have, owner) && sameData(have.Data.Raw, data) {
			return have, nil
		}
		*collisions = ptr.To(ptr.Deref(*collisions, 0) + 1)
	}
}

func wrap(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}

// raise makes a revision the newest.
func (h *History) raise(ctx context.Context, r *appsv1.ControllerRevision, number int64) (*appsv1.ControllerRevision, error) {
	next := r.DeepCopy()
	var out *appsv1.ControllerRevision
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		next.Revision = number
		out, err = h.Client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if now, getErr := h.Client.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{}); getErr == nil {
				next = now
			}
		}
		return err
	})
	return out, wrap("update revision", r.Name, err)
}

// Truncate deletes the oldest revisions that are not in use, beyond the limit.
func (h *History) Truncate(ctx context.Context, revisions []*appsv1.ControllerRevision, inUse func(*appsv1.ControllerRevision) bool, limit *int32) error {
	idle := slices.DeleteFunc(slices.Clone(revisions), inUse)
	for _, r := range idle[:max(0, len(idle)-int(ptr.Deref(limit, 10)))] {
		err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return wrap("delete revision", r.Name, err)
		}
	}
	return nil
}

// Hash is the label value by which Pods name their revision.
func Hash(r *appsv1.ControllerRevision) string {
	return r.Labels[appsv1.ControllerRevisionHashLabelKey]
}

func hashOf(data []byte, collisions *int32) string {
	h := fnv.New32a()
	h.Write(data) // a hash takes everything
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// sameData compares meanings: the API may have written the JSON anew.
func sameData(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return slices.Equal(a, b)
	}
	ja, errA := json.Marshal(x)
	jb, errB := json.Marshal(y)
	return errA == nil && errB == nil && slices.Equal(ja, jb)
}
