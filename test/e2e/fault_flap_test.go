package e2e

import (
	"errors"
	"fmt"
	"maps"
	"syscall"
	"testing"

	"github.com/peapod/peapod/network/nettest"
)

// Pods whose readiness probe fails now and then, though they go on answering: no request is lost to one that comes or goes, all
// are refused at once when none is ready, and the rules are what they were.
func TestReadinessProbesFlap(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	verb(t, o.Cluster, "", "image", "pull", "nginx:1.14.2").want(t, "pull", 0)
	s.awaitAccount()
	rules := nettest.FollowRules(t)
	_, services := o.Place().Tables()
	// ends waits until Services have so many endpoints in the rules.
	ends := func(n int) {
		t.Helper()
		rules.Until(fmt.Sprint(n, " endpoints"), func() error {
			if now := o.rules()[services+" ends4"]; now != n {
				return fmt.Errorf("there are %d", now)
			}
			return nil
		})
	}
	ends(1) // The API's.
	machine, clean := o.inventory(), o.rules()
	s.apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: flapper}
spec:
  replicas: 3
  selector: {matchLabels: {app: flapper}}
  template:
    metadata: {labels: {app: flapper}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: nginx:1.14.2
        imagePullPolicy: IfNotPresent
        readinessProbe: {exec: {command: [test, '!', -e, /tmp/away]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: flapper}
spec: {selector: {app: flapper}, ports: [{port: 80}]}
`)
	l := s.look("app=flapper")
	ready := func(n int) {
		t.Helper()
		l.until(fmt.Sprint(n, " ready"), func() bool { return len(l.ready()) == n }, nil)
	}
	away := func(pod string) { t.Helper(); s.kubectl("exec", pod, "--", "touch", "/tmp/away") }
	back := func(pod string) { t.Helper(); s.kubectl("exec", pod, "--", "rm", "/tmp/away") }
	ready(3)
	ends(1 + 3)
	address := s.kubectl("get", "service", "flapper", "-o", "jsonpath={.spec.clusterIP}")
	like := func(what string, want map[string]int) {
		t.Helper()
		rules.Until(what, func() error {
			if now := o.rules(); !maps.Equal(now, want) {
				return fmt.Errorf("there is %v and was %v", now, want)
			}
			return nil
		})
	}
	rules.Until("it answers", func() error { return host(t, address) })
	standing, pods := o.rules(), l.ready()
	asking, stop := keepAsking(t, address)
	for i := range 6 {
		away(pods[i%2])
		ready(2)
		back(pods[i%2])
		ready(3)
	}
	stop()
	asking.want(t, "flapping")
	like("rules while all are ready", standing)
	for _, pod := range pods {
		away(pod)
	}
	ready(0)
	rules.Until("it is refused while none is ready", func() error {
		if err := host(t, address); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("the answer is %w", err)
		}
		return nil
	})
	for _, pod := range pods {
		back(pod)
	}
	ready(3)
	rules.Until("it answers again", func() error { return host(t, address) })
	like("rules while all are ready again", standing)
	s.kubectl("delete", "deployment/flapper", "service/flapper")
	s.kubectl("wait", "--for=delete", "pod", "-l", "app=flapper", "--timeout=60s")
	like("rules without it", clean)
	o.wantInventory(machine)
}
