package kinds

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "nginx"}}
	return d
}

func TestScaleIsAViewOfTheReplicas(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	deployments := c.AppsV1().Deployments("default")
	d := must[*appsv1.Deployment](t)(deployments.Create(ctx, deployment("web"), metav1.CreateOptions{}))
	get := must[*autoscalingv1.Scale](t)

	scale := get(deployments.GetScale(ctx, "web", metav1.GetOptions{}))
	if scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" || scale.UID != d.UID || scale.ResourceVersion != d.ResourceVersion {
		t.Fatalf("read as %+v", scale)
	}
	scale.Spec.Replicas = 3
	scale = get(deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}))
	d = must[*appsv1.Deployment](t)(deployments.Get(ctx, "web", metav1.GetOptions{}))
	if scale.Spec.Replicas != 3 || *d.Spec.Replicas != 3 || d.Generation != 2 || scale.ResourceVersion != d.ResourceVersion {
		t.Fatalf("updated to %+v, of a deployment of generation %d with %d", scale, d.Generation, *d.Spec.Replicas)
	}

	stale := scale.DeepCopy()
	stale.ResourceVersion = "1"
	if _, err := deployments.UpdateScale(ctx, "web", stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("updated from what it no longer is: %v", err)
	}
	other := scale.DeepCopy()
	other.UID = "other"
	if _, err := deployments.UpdateScale(ctx, "web", other, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("updated what is another object: %v", err)
	}
	negative := scale.DeepCopy()
	negative.Spec.Replicas = -1
	_, err := deployments.UpdateScale(ctx, "web", negative, metav1.UpdateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0") {
		t.Errorf("less than none: %v", err)
	}
	none := scale.DeepCopy()
	none.Name = "none"
	if _, err := deployments.UpdateScale(ctx, "none", none, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the scale of what does not exist: %v", err)
	}
	patched := &autoscalingv1.Scale{}
	err = c.AppsV1().RESTClient().Patch(types.MergePatchType).Namespace("default").Resource("deployments").Name("web").
		SubResource("scale").Body([]byte(`{"spec":{"replicas":5}}`)).Do(ctx).Into(patched)
	if err != nil || patched.Spec.Replicas != 5 {
		t.Errorf("patched to %+v: %v", patched.Spec, err)
	}
}

// Whoever applies the replicas through the subresource owns that field of the object, and conflicts with who owned it.
func TestScaleKeepsManagers(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	deployments := c.AppsV1().Deployments("default")
	d := deployment("web")
	d.Spec.Replicas = ptr.To[int32](2)
	must[*appsv1.Deployment](t)(deployments.Create(ctx, d, metav1.CreateOptions{FieldManager: "creator"}))
	apply := func(manager string, force bool) error {
		body := `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":4}}`
		return c.AppsV1().RESTClient().Patch(types.ApplyYAMLPatchType).Namespace("default").Resource("deployments").Name("web").
			SubResource("scale").VersionedParams(&metav1.PatchOptions{FieldManager: manager, Force: &force}, metav1.ParameterCodec).
			Body([]byte(body)).Do(ctx).Error()
	}
	if err := apply("scaler", false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "creator") {
		t.Fatalf("applied what another manages: %v", err)
	}
	if err := apply("scaler", true); err != nil {
		t.Fatal(err)
	}
	got := must[*appsv1.Deployment](t)(deployments.Get(ctx, "web", metav1.GetOptions{}))
	owners := map[string]bool{}
	for _, m := range got.ManagedFields {
		if strings.Contains(string(m.FieldsV1.Raw), `"f:replicas"`) {
			owners[m.Manager+" "+m.APIVersion+" "+m.Subresource] = true
		}
	}
	if *got.Spec.Replicas != 4 || len(owners) != 1 || !owners["scaler apps/v1 scale"] {
		t.Errorf("%d replicas, owned by %v", *got.Spec.Replicas, owners)
	}
}

func TestScaleIsDiscovered(t *testing.T) {
	_, c := start(t)
	list := must[*metav1.APIResourceList](t)(c.Discovery().ServerResourcesForGroupVersion("apps/v1"))
	for _, r := range list.APIResources {
		if r.Name == "deployments/scale" {
			if r.Group != "autoscaling" || r.Version != "v1" || r.Kind != "Scale" || !r.Namespaced || strings.Join(r.Verbs, " ") != "get patch update" {
				t.Errorf("discovered as %+v", r)
			}
			return
		}
	}
	t.Error("deployments/scale is not discovered")
}
