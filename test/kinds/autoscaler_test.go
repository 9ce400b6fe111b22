package kinds

import (
	"encoding/json"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

const memoryMetric = `[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":40}}]`

func TestAutoscalersAreOneInTwoVersions(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	v1, v2 := c.AutoscalingV1().HorizontalPodAutoscalers("default"), c.AutoscalingV2().HorizontalPodAutoscalers("default")
	get1, get2 := must[*autoscalingv1.HorizontalPodAutoscaler](t), must[*autoscalingv2.HorizontalPodAutoscaler](t)
	const metrics = "autoscaling.alpha.kubernetes.io/metrics"

	a := get1(v1.Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{metrics: memoryMetric, "mine": "kept"}},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    4, TargetCPUUtilizationPercentage: ptr.To[int32](30),
		},
	}, metav1.CreateOptions{}))
	if a.Annotations[metrics] != memoryMetric || *a.Spec.TargetCPUUtilizationPercentage != 30 || *a.Spec.MinReplicas != 1 {
		t.Fatalf("created in version 1 as %+v", a)
	}
	b := get2(v2.Get(ctx, "web", metav1.GetOptions{}))
	if b.UID != a.UID || len(b.Annotations) != 1 || len(b.Spec.Metrics) != 2 || *b.Spec.Metrics[1].Resource.Target.AverageUtilization != 30 {
		t.Fatalf("in version 2 it is %+v", b)
	}
	watch, err := v1.Watch(ctx, metav1.ListOptions{ResourceVersion: b.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	b.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: "True", Reason: "SucceededGetScale"}}
	b.Status.CurrentReplicas = 2
	b.Annotations[metrics] = "not to be stored"
	b = get2(v2.UpdateStatus(ctx, b, metav1.UpdateOptions{}))
	if len(b.Annotations) != 1 {
		t.Errorf("version 2 has annotations %v", b.Annotations)
	}
	seen := (<-watch.ResultChan()).Object.(*autoscalingv1.HorizontalPodAutoscaler)
	if !strings.Contains(seen.Annotations["autoscaling.alpha.kubernetes.io/conditions"], `"reason":"SucceededGetScale"`) || seen.Status.CurrentReplicas != 2 {
		t.Errorf("watched in version 1: %+v", seen)
	}
	// Whoever writes through version 1 what he has read loses nothing, the status included.
	seen.Spec.MaxReplicas = 5
	seen = get1(v1.Update(ctx, seen, metav1.UpdateOptions{}))
	b = get2(v2.Get(ctx, "web", metav1.GetOptions{}))
	if b.Spec.MaxReplicas != 5 || b.Generation != 2 || seen.Generation != 2 || len(b.Spec.Metrics) != 2 || len(b.Status.Conditions) != 1 {
		t.Errorf("updated through version 1 to %+v", b)
	}
	list := must[*autoscalingv1.HorizontalPodAutoscalerList](t)(v1.List(ctx, metav1.ListOptions{}))
	if len(list.Items) != 1 || list.Items[0].Annotations[metrics] != memoryMetric {
		t.Errorf("listed in version 1: %+v", list.Items)
	}
	_, err = v1.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"minReplicas":9}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`") {
		t.Errorf("patched to what is not valid: %v", err)
	}
}

// Whoever applies an autoscaler, in either version, owns what he can change and not the status.
func TestAutoscalersKeepManagers(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	for _, version := range []string{"v1", "v2"} {
		body, err := json.Marshal(map[string]any{
			"apiVersion": "autoscaling/" + version, "kind": "HorizontalPodAutoscaler", "metadata": map[string]any{"name": "web-" + version},
			"spec": map[string]any{
				"maxReplicas": 3, "scaleTargetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
			},
			"status": map[string]any{"currentReplicas": 3, "desiredReplicas": 3},
		})
		if err != nil {
			t.Fatal(err)
		}
		var result metav1.PartialObjectMetadata
		raw, err := c.CoreV1().RESTClient().Patch(types.ApplyYAMLPatchType).
			AbsPath("/apis/autoscaling/"+version+"/namespaces/default/horizontalpodautoscalers/web-"+version).
			Param("fieldManager", "me").SetHeader("Accept", "application/json").Body(body).Do(ctx).Raw()
		if err != nil {
			t.Fatalf("apply in %s: %v: %s", version, err, raw)
		}
		if err := json.Unmarshal(raw, &result); err != nil {
			t.Fatal(err)
		}
		if len(result.ManagedFields) != 1 || result.ManagedFields[0].APIVersion != "autoscaling/"+version {
			t.Fatalf("applied in %s, managed by %v", version, result.ManagedFields)
		}
		fields := string(result.ManagedFields[0].FieldsV1.Raw)
		if !strings.Contains(fields, "f:maxReplicas") || strings.Contains(fields, "f:status") {
			t.Errorf("who applies in %s owns %s", version, fields)
		}
	}
}

func TestAutoscalersAreDiscovered(t *testing.T) {
	ctx, c := start(t)
	groups := must[*metav1.APIGroupList](t)(c.Discovery().ServerGroups())
	for _, g := range groups.Groups {
		if g.Name == "autoscaling" && (g.PreferredVersion.Version != "v2" || len(g.Versions) != 2) {
			t.Errorf("the group is %+v", g)
		}
	}
	for _, version := range []string{"autoscaling/v1", "autoscaling/v2"} {
		list := must[*metav1.APIResourceList](t)(c.Discovery().ServerResourcesForGroupVersion(version))
		names := []string{}
		for _, r := range list.APIResources {
			names = append(names, r.Name)
		}
		if strings.Join(names, " ") != "horizontalpodautoscalers horizontalpodautoscalers/status" {
			t.Errorf("%s has %v", version, names)
		}
	}
	table := must[[]byte](t)(c.CoreV1().RESTClient().Get().AbsPath("/apis/autoscaling/v1/horizontalpodautoscalers").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw())
	if !strings.Contains(string(table), `"MinPods"`) {
		t.Errorf("version 1 is printed as %s", table)
	}
}
