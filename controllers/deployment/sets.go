package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/claim"
)

const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	// rollbackAnnotation is from an API version that is gone.
	rollbackAnnotation = "deprecated.deployment.rollback.to"
	// historyLimit bounds the annotation of past revisions, in bytes.
	historyLimit = 2000
)

// ownAnnotations are not passed on from a Deployment to its ReplicaSets.
var ownAnnotations = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, rollbackAnnotation,
}

// claimSets returns the ReplicaSets of the Deployment; it adopts and releases by labels.
func (c *controller) claimSets(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	list, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list replica sets: %w", err)
	}
	want := claim.Claim[*appsv1.ReplicaSet]{
		Owner: d, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, namespace, name string, body []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(namespace).Patch(ctx, name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
			return err
		},
	}
	for _, rs := range list {
		switch ref := metav1.GetControllerOfNoCopy(rs); {
		case ref == nil:
			want.Free = append(want.Free, rs)
		case ref.UID == d.UID:
			want.Owned = append(want.Owned, rs)
		}
	}
	mine, err := want.Run(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim replica sets: %w", err)
	}
	return mine, nil
}

// sameTemplate says whether two templates differ in nothing but the label that the controller adds.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// split finds the ReplicaSet of the Deployment's template, the oldest if there are several; nil if there is none.
func split(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) {
	for _, rs := range byAge(sets) {
		if newest == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			newest = rs
		} else {
			olds = append(olds, rs)
		}
	}
	return newest, olds
}

// hashOf names a template. Another one of the same name raises the Deployment's count of collisions, which changes the name.
func hashOf(t *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(t); err != nil {
		return "", fmt.Errorf("hash pod template: %w", err)
	}
	if collisions != nil {
		fmt.Fprint(h, *collisions) // a hash takes everything
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

func revision(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is that of the newest ReplicaSet: one more than any other has.
func nextRevision(olds []*appsv1.ReplicaSet) int64 {
	var last int64
	for _, rs := range olds {
		last = max(last, revision(rs.Annotations))
	}
	return last + 1
}

// annotate returns what the newest ReplicaSet's annotations are to be: the Deployment's, its revision, and the ones that it
// had before it became the newest again.
func annotate(d *appsv1.Deployment, have map[string]string, rev int64) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !slices.Contains(ownAnnotations, k) {
			out[k] = v
		}
	}
	old, had := have[revisionAnnotation]
	if had && old != "" {
		if n, err := strconv.ParseInt(old, 10, 64); err != nil || n >= rev {
			return out
		}
	}
	out[revisionAnnotation] = strconv.FormatInt(rev, 10)
	if had && old != "" {
		history := old
		if past := have[historyAnnotation]; past != "" {
			history = past + "," + old
		}
		for len(history) > historyLimit {
			_, rest, found := strings.Cut(history, ",")
			if !found {
				return out
			}
			history = rest
		}
		out[historyAnnotation] = history
	}
	return out
}

// sized adds to annotations for what size of the Deployment a ReplicaSet is scaled.
func sized(d *appsv1.Deployment, annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	if out == nil {
		out = map[string]string{}
	}
	out[desiredAnnotation] = strconv.Itoa(int(desired(d)))
	out[maxAnnotation] = strconv.Itoa(int(largest(d)))
	return out
}

// ensure brings the newest ReplicaSet's annotations up to date, or makes it if make says so, and notes its revision in d. It
// returns nil where there is none.
func (c *controller) ensure(ctx context.Context, d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, create bool, now time.Time) (*appsv1.ReplicaSet, error) {
	rev := nextRevision(olds)
	if newest == nil {
		if !create {
			return nil, nil
		}
		return c.create(ctx, d, olds, rev, now)
	}
	annotations := annotate(d, newest.Annotations, rev)
	if !maps.Equal(annotations, newest.Annotations) || newest.Spec.MinReadySeconds != d.Spec.MinReadySeconds {
		next := newest.DeepCopy()
		next.Annotations, next.Spec.MinReadySeconds = annotations, d.Spec.MinReadySeconds
		updated, err := c.client.AppsV1().ReplicaSets(next.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("annotate replica set %s: %w", next.Name, err)
		}
		newest = updated
	}
	setRevision(d, newest.Annotations[revisionAnnotation])
	if hasDeadline(d) && condition(&d.Status, appsv1.DeploymentProgressing) == nil {
		setCondition(&d.Status, progressing(corev1.ConditionTrue, reasonFound, "Found new replica set %q", newest.Name), now)
	}
	return newest, nil
}

func setRevision(d *appsv1.Deployment, rev string) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[revisionAnnotation] = rev
}

// draft is the ReplicaSet of the Deployment's template, before it is made.
func draft(d *appsv1.Deployment, olds []*appsv1.ReplicaSet, rev int64) (*appsv1.ReplicaSet, error) {
	hash, err := hashOf(&d.Spec.Template, d.Status.CollisionCount)
	if err != nil {
		return nil, err
	}
	template := d.Spec.Template.DeepCopy()
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := metav1.CloneSelectorAndAddLabel(d.Spec.Selector, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: maps.Clone(template.Labels),
			Annotations:     sized(d, annotate(d, nil, rev)),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(roomForNew(d, 0, olds)), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}, nil
}

// create makes the ReplicaSet of the Deployment's template. If there is one of its name that is another's, the count of
// collisions is raised in the status and the error says to come again.
func (c *controller) create(ctx context.Context, d *appsv1.Deployment, olds []*appsv1.ReplicaSet, rev int64, now time.Time) (*appsv1.ReplicaSet, error) {
	rs, err := draft(d, olds, rev)
	if err != nil {
		return nil, err
	}
	made, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		if made, err = c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, rs.Name, metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("read replica set %s: %v", rs.Name, err) // not found, it is to be tried again all the same
		}
		if !metav1.IsControlledBy(made, d) || !sameTemplate(&made.Spec.Template, &d.Spec.Template) {
			d.Status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
			return nil, &collision{rs.Name}
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		if hasDeadline(d) {
			setCondition(&d.Status, progressing(corev1.ConditionFalse, reasonCreateError, "%s", message), now)
		}
		c.recorder.Event(d, corev1.EventTypeWarning, reasonCreateError, message)
		return nil, fmt.Errorf("create replica set %s: %w", rs.Name, err)
	default:
		if size(made) > 0 {
			c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, size(made))
		}
		if hasDeadline(d) {
			setCondition(&d.Status, progressing(corev1.ConditionTrue, reasonCreated, "Created new replica set %q", made.Name), now)
		}
	}
	setRevision(d, strconv.FormatInt(rev, 10))
	return made, nil
}

// collision says that another object has the name that a template's hash gives.
type collision struct{ name string }

func (e *collision) Error() string { return fmt.Sprintf("replica set %s is another's", e.name) }
