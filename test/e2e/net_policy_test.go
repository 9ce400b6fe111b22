package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/network/nettest"
)

// labelled is a web Pod with a label.
func labelled(name, label string) string {
	return strings.Replace(web(name, ""), "metadata: {name: "+name+"}", "metadata: {name: "+name+", labels: {"+label+"}}", 1)
}

// silent is nil if a Pod gets no answer from a URL; the error says what it got.
func (s *space) silent(pod, url string) error {
	r := s.try("exec", pod, "-c", "client", "--", "curl", "-sS", "--max-time", "2", url)
	if r.code == 0 {
		return fmt.Errorf("%s gets from %s: %s", pod, url, r.stdout)
	}
	return nil
}

// networkPolicies are for the Pods with app=pages, whom friends alone may ask at port 80, and for friends, who may ask nobody else.
const networkPolicies = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: pages}
spec:
  podSelector: {matchLabels: {app: pages}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 80}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {role: friend}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: pages}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: hermits}
spec:
  podSelector: {matchLabels: {role: hermit}}
  policyTypes: [Ingress, Egress]
---
`

// Policies hold between Pods, by their addresses and through Services, and for a Pod that comes later from its first moment on; the
// node reaches its Pods in any case.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(labelled("one", "app: pages") + labelled("friend", "role: friend") + labelled("stranger", "role: stranger") + pages("page", ""))
	s.ready("one", "friend", "stranger")
	s.endpoints("page", 1)
	one, stranger := s.get("one").Status.PodIP, s.get("stranger").Status.PodIP
	reached(t, s.kubectl("get", "service", "page", "-o", "jsonpath={.spec.clusterIP}"))
	contains(t, "without a policy", s.curl("stranger", "page"), welcome)

	rules := nettest.FollowRules(t)
	s.apply(networkPolicies)
	rules.Until("the stranger is kept out", func() error { return s.silent("stranger", "page") })
	rules.Until("the friend is kept in", func() error { return s.silent("friend", stranger) })
	contains(t, "friend by name", s.curl("friend", "page."+s.name), welcome)
	contains(t, "friend by address", s.curl("friend", one), welcome)
	contains(t, "a Pod to itself", s.curl("one", "page"), welcome)
	contains(t, "from whom nothing is selected", s.curl("one", stranger), welcome)
	answers(t, one)
	if err := s.silent("stranger", one); err != nil {
		t.Error(err)
	}

	// Nothing of the Pod gets out before its rules stand.
	s.apply(fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: hermit, labels: {role: hermit}}
spec:
  restartPolicy: Never
  containers: [{name: client, image: gentledev10/ubuntu-curl, command: [curl, -sS, --max-time, '3', 'http://%s/']}]
`, stranger))
	hermit := s.phase("hermit", corev1.PodFailed)
	equal(t, "exit code of curl, which waits for an answer in vain", hermit.Status.ContainerStatuses[0].State.Terminated.ExitCode, 28)

	// Labels decide, at once.
	s.kubectl("label", "pod", "stranger", "--overwrite", "role=friend")
	rules.Until("the stranger is a friend", func() error {
		if s.silent("stranger", "page") == nil {
			return errors.New("page does not answer")
		}
		return nil
	})
	s.kubectl("delete", "networkpolicy", "--all")
	rules.Until("the friend is free", func() error {
		if s.silent("friend", stranger) == nil {
			return errors.New("the stranger does not answer")
		}
		return nil
	})
	// Without policies all is as before.
	contains(t, "after the policies", s.curl("friend", "page"), welcome)
}
