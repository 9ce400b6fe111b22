package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

const surgingDaemonSet = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: agent
        image: nginx:1.20.2
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
`

// With maxSurge the new Pod of a node is ready before the old one goes.
func TestDaemonSetSurges(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.apply(surgingDaemonSet)
		s.kubectl("rollout", "status", "daemonset/agent")
		pods := s.look("app=agent")
		s.kubectl("set", "image", "daemonset/agent", "agent=nginx:1.14.2")
		most := 1
		pods.until("of the new template", func() bool { return slices.Equal(pods.images(), []string{"nginx:1.14.2"}) }, func() {
			most = max(most, len(pods.pods))
			if len(pods.ready()) == 0 {
				s.t.Error("no Pod was ready during the update")
			}
		})
		equal(s.t, "most Pods at once", most, 2)
		s.kubectl("rollout", "status", "daemonset/agent")
		contains(s.t, "history", s.kubectl("rollout", "history", "daemonset/agent"), "\n1 ", "\n2 ")
		s.kubectl("rollout", "undo", "daemonset/agent")
		pods.until("of the old template", func() bool { return slices.Equal(pods.images(), []string{"nginx:1.20.2"}) }, nil)
		row := strings.Fields(s.kubectl("get", "daemonset", "agent", "--no-headers"))
		equal(s.t, "row", strings.Join(row[:2], " "), "agent 1")
		s.kubectl("delete", "daemonset", "agent", "--cascade=foreground")
		equal(s.t, "Pods left", len(s.names("app=agent")), 0)
	})
}

const orderedStatefulSet = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: nginx:1.20.2
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
`

// The Pods of a StatefulSet come one after the other, each when all before it are ready, are updated from the last down to the
// partition, and go from the last.
func TestStatefulSetInOrder(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pods := s.look("app=db")
	inOrder := func() {
		// Whoever is there, all before it are ready: so many, and one more that is not.
		if ready, all := pods.ready(), slices.Sorted(maps.Keys(pods.pods)); len(all) > len(ready)+1 || !slices.Equal(ready, all[:len(ready)]) {
			t.Errorf("%v are there while %v are ready", all, ready)
		}
	}
	three := []string{"db-0", "db-1", "db-2"}
	s.apply(orderedStatefulSet)
	pods.until("ready", func() bool { return slices.Equal(pods.ready(), three) }, inOrder)
	for _, name := range three {
		equal(t, "host name", s.kubectl("exec", name, "--", "hostname"), name+"\n")
	}

	s.kubectl("patch", "statefulset", "db", "--type=merge", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}`)
	s.kubectl("set", "image", "statefulset/db", "db=nginx:1.14.2")
	contains(t, "status", s.kubectl("rollout", "status", "statefulset/db"), "partitioned roll out complete: 1 new pods have been updated")
	equal(t, "images", s.kubectl("get", "pods", "-l", "app=db", "-o", "jsonpath={.items[*].spec.containers[0].image}"), "nginx:1.20.2 nginx:1.20.2 nginx:1.14.2")
	pods.until("updated above the partition", func() bool {
		return slices.Equal(pods.images(), []string{"nginx:1.20.2", "nginx:1.20.2", "nginx:1.14.2"}) && len(pods.ready()) == 3
	}, nil)

	s.kubectl("patch", "statefulset", "db", "--type=merge", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	var updates []string
	note := func() {
		for _, name := range three {
			if p := pods.pods[name]; p != nil && p.Spec.Containers[0].Image == "nginx:1.14.2" && !slices.Contains(updates, name) {
				updates = append(updates, name)
			}
		}
	}
	pods.until("all updated", func() bool { note(); return len(updates) == 3 && len(pods.ready()) == 3 }, note)
	equal(t, "order of updates", strings.Join(updates, " "), "db-2 db-1 db-0")

	s.kubectl("scale", "statefulset/db", "--replicas=1")
	var going []string
	pods.until("one", func() bool { return len(pods.pods) == 1 }, func() {
		for name, p := range pods.pods {
			if p.DeletionTimestamp != nil && !slices.Contains(going, name) {
				going = append(going, name)
			}
		}
	})
	equal(t, "order of deletions", strings.Join(going, " "), "db-2 db-1")
	contains(t, "revisions", s.kubectl("rollout", "history", "statefulset/db"), "\n1 ", "\n2 ")
}
