package e2e

import "testing"

const gauges = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gauges.autoscaled.example.com}
spec:
  group: autoscaled.example.com
  scope: Namespaced
  names: {plural: gauges, singular: gauge, kind: Gauge}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}}
`

// An autoscaler holds what it scales in its bounds, of whatever kind that is; that there is nothing to measure with it says.
func TestAutoscaler(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("create", "deployment", "web", "--image=busybox", "--", "sleep", "1000000")
	s.kubectl("autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu=50%")
	s.kubectl("wait", "--for=jsonpath={.spec.replicas}=2", "deployment/web", "--timeout=120s")
	s.kubectl("wait", "--for=jsonpath={.status.desiredReplicas}=2", "hpa/web", "--timeout=120s")
	contains(t, "get", s.kubectl("get", "hpa"), "NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE", "Deployment/web", "cpu: <unknown>/50%")
	s.event("web", "SuccessfulRescale", "New size: 2; reason: Current number of replicas below Spec.MinReplicas")
	contains(t, "describe", s.kubectl("describe", "hpa", "web"), "Min replicas:", "Max replicas:", "AbleToScale", "SucceededRescale")
	contains(t, "version 1", s.kubectl("get", "horizontalpodautoscalers.v1.autoscaling", "web", "-o", "yaml"),
		"targetCPUUtilizationPercentage: 50", "autoscaling.alpha.kubernetes.io/conditions:")

	s.apply(gauges)
	defer s.kubectl("delete", "crd", "gauges.autoscaled.example.com")
	s.kubectl("wait", "--for=condition=Established", "crd/gauges.autoscaled.example.com", "--timeout=120s")
	s.apply("apiVersion: autoscaled.example.com/v1\nkind: Gauge\nmetadata: {name: oil}\nspec: {replicas: 9}\n")
	s.apply(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: oil}
spec:
  scaleTargetRef: {apiVersion: autoscaled.example.com/v1, kind: Gauge, name: oil}
  maxReplicas: 3
`)
	s.kubectl("wait", "--for=jsonpath={.spec.replicas}=3", "gauge/oil", "--timeout=120s")
}
