package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// asking is a Pod that asks for CPU.
func asking(name, cpu string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"terminationGracePeriodSeconds":0,"containers":[
		{"name":"web","image":"nginx:1.20.2","resources":{"requests":{"cpu":%q}}}]}}`, name, cpu)
}

func TestQuotaByHand(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		used := func(resource, amount string) {
			s.t.Helper()
			s.kubectl("wait", "quota/q", "--timeout=120s", "--for=jsonpath={.status.used."+strings.ReplaceAll(resource, ".", `\.`)+"}="+amount)
		}
		s.kubectl("wait", "configmap/kube-root-ca.crt", "--timeout=120s", "--for=jsonpath={.metadata.name}=kube-root-ca.crt")
		s.kubectl("create", "quota", "q", "--hard=pods=2,requests.cpu=500m,count/configmaps=2")
		used("pods", "0")
		s.fails([]string{"run", "x", "--image=nginx:1.20.2"}, `pods "x" is forbidden: failed quota: q: must specify requests.cpu for: x`)
		s.kubectlIn(asking("a", "200m"), "apply", "-f", "-")
		s.kubectlIn(asking("b", "0.2"), "apply", "-f", "-")
		used("requests.cpu", "400m")

		s.kubectl("create", "configmap", "one")
		s.fails([]string{"create", "configmap", "two"},
			"exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2")
		row := s.kubectl("get", "quota", "q", "--no-headers")
		contains(s.t, "row", row, "count/configmaps: 2/2, pods: 2/2, requests.cpu: 400m/500m")
		contains(s.t, "description", s.kubectl("describe", "quota", "q"), "Resource", "Used", "Hard", "requests.cpu", "400m", "500m")

		// A Deployment gets no Pod, and says why; when another Pod goes, it does.
		s.kubectl("create", "deployment", "web", "--image=nginx:1.20.2", "--replicas=0")
		s.kubectl("set", "resources", "deployment/web", "--requests=cpu=100m")
		s.kubectl("scale", "deployment/web", "--replicas=1")
		s.kubectl("wait", "deployment/web", "--timeout=120s", "--for=condition=ReplicaFailure")
		contains(s.t, "condition", s.kubectl("get", "deployment", "web", "-o", `jsonpath={.status.conditions[?(@.type=="ReplicaFailure")].message}`),
			"is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
		s.kubectl("delete", "pod", "a", "--now")
		s.kubectl("rollout", "status", "deployment/web", "--timeout=180s")
		used("requests.cpu", "300m")
	})
}
