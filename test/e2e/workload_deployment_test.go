package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// names are those of the Pods that match and are not being deleted.
func (s *space) names(selector string) []string {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods(s.name).List(s.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p.Name)
		}
	}
	return out
}

// replaced deletes a Pod and returns how long it took until there was another.
func (s *space) replaced(selector string) time.Duration {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	list, err := s.client.CoreV1().Pods(s.name).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil || len(list.Items) == 0 {
		s.t.Fatalf("%d Pods, %v", len(list.Items), err)
	}
	w, err := s.client.CoreV1().Pods(s.name).Watch(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	start := time.Now()
	if err := s.client.CoreV1().Pods(s.name).Delete(ctx, list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
	for e := range w.ResultChan() {
		if e.Type == watch.Added {
			return time.Since(start)
		}
	}
	s.t.Fatal("no replacement in time")
	return 0
}

func TestDeploymentByHand(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("create", "deployment", "web", "--image=nginx:1.20.2", "--replicas=2")
		contains(s.t, "rollout", s.kubectl("rollout", "status", "deployment/web"), `deployment "web" successfully rolled out`)
		s.event("web", "ScalingReplicaSet", "from 0 to 2")
		s.kubectl("scale", "deployment/web", "--replicas=3")
		s.kubectl("rollout", "status", "deployment/web")
		row := strings.Fields(s.kubectl("get", "deployment", "web", "--no-headers"))
		equal(s.t, "row", strings.Join(row[:4], " "), "web 3/3 3 3")

		s.kubectl("set", "image", "deployment/web", "nginx=nginx:1.14.2")
		s.kubectl("rollout", "status", "deployment/web")
		history := s.kubectl("rollout", "history", "deployment/web")
		contains(s.t, "history", history, "\n1 ", "\n2 ")
		s.kubectl("rollout", "undo", "deployment/web")
		s.kubectl("rollout", "status", "deployment/web")
		image := "jsonpath={.spec.template.spec.containers[0].image}"
		equal(s.t, "image after undo", s.kubectl("get", "deployment", "web", "-o", image), "nginx:1.20.2")

		s.kubectl("rollout", "pause", "deployment/web")
		s.kubectl("set", "env", "deployment/web", "A=B")
		contains(s.t, "description", s.kubectl("describe", "deployment", "web"), "DeploymentPaused")
		sets := s.kubectl("get", "rs", "-o", "name")
		equal(s.t, "ReplicaSets while paused", strings.Count(sets, "\n"), 2)
		s.kubectl("rollout", "resume", "deployment/web")
		s.kubectl("rollout", "status", "deployment/web")
		s.kubectl("rollout", "restart", "deployment/web")
		s.kubectl("rollout", "status", "deployment/web")

		s.deploymentByName()
		s.kubectl("delete", "deployment", "web")
		s.kubectl("wait", "--for=delete", "rs,pod", "-l", "app=web", "--timeout=60s")
	})
}

// deploymentByName uses a Deployment's name where a Pod is meant, and goes back to a revision by number.
func (s *space) deploymentByName() {
	s.t.Helper()
	s.kubectl("expose", "deployment", "web", "--port=80")
	s.endpoints("web", 3)
	contains(s.t, "page", s.page("web"), "Welcome to nginx!")
	line := s.start("port-forward", "--address=127.0.0.1", "deploy/web", ":80").until(`^Forwarding from 127\.0\.0\.1:\d+ -> 80$`)
	address := strings.Fields(line)[2]
	if err := host(s.t, address); err != nil {
		s.t.Error(err)
	}
	s.start("logs", "-f", "deploy/web", "--all-pods=true").until(`"GET / HTTP/1\.1" 200`)
	equal(s.t, "exec", s.kubectl("exec", "deploy/web", "--", "printenv", "A"), "B\n")

	s.kubectl("rollout", "undo", "deployment/web", "--to-revision=3")
	s.kubectl("rollout", "status", "deployment/web")
	s.fails([]string{"exec", "deploy/web", "--", "printenv", "A"}, "exit code 1")
	s.fails([]string{"rollout", "undo", "deployment/web", "--to-revision=99"}, "unable to find specified revision 99 in history")
	s.kubectl("annotate", "deployment", "web", "kubernetes.io/change-cause=back again")
	contains(s.t, "history", s.kubectl("rollout", "history", "deployment/web"), "back again")
	contains(s.t, "revision", s.kubectl("rollout", "history", "deployment/web", "--revision=4"), "A:\tB")
}

// A Pod that is relabeled leaves its Deployment, which makes another; labeled back, it returns and the surplus goes.
func TestDeploymentLabels(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"deployment.yaml")
	s.kubectl("rollout", "status", "deployment/web")
	t.Logf("a deleted Pod was replaced after %v", s.replaced("app=web"))
	s.kubectl("rollout", "status", "deployment/web")
	s.kubectl("label", "pods", "-l", "app=web", "--overwrite", "app=other")
	s.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/web", "--timeout=60s")
	s.kubectl("rollout", "status", "deployment/web")
	equal(t, "Pods that left", len(s.names("app=other")), 3)
	equal(t, "Pods that came", len(s.names("app=web")), 3)
	s.kubectl("label", "pods", "-l", "app=other", "--overwrite", "app=web")
	s.kubectl("wait", "--for=jsonpath={.status.replicas}=3", "deployment/web", "--timeout=60s")
	s.kubectl("delete", "-f", examples+"deployment.yaml")
	s.kubectl("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
	equal(t, "Pods left", len(s.names("")), 0)
}

func TestExampleRecreateAndRolling(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for file, name := range map[string]string{"deployment-recreate.yaml": "recreate", "deployment-rolling-update.yaml": "rolling"} {
		s.kubectl("apply", "-f", examples+file)
		s.kubectl("rollout", "status", "deployment/"+name)
		s.kubectl("set", "image", "deployment/"+name, "web=nginx:1.14.2")
		s.kubectl("rollout", "status", "deployment/"+name)
	}
	list, err := s.client.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			equal(t, "image of "+p.Name, p.Spec.Containers[0].Image, "nginx:1.14.2")
		}
	}
}

const wrongReplicaSet = `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: wrong}
spec:
  replicas: 3
  selector: {matchLabels: {app: greeter}}
  template:
    metadata: {labels: {app: somebody-else}}
    spec: {containers: [{name: greeter, image: ubuntu}]}
`

// A template outside of spec and its own spec beside the first, as in a tutorial that slipped.
const slippedDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: slipped}
spec:
  selector: {matchLabels: {app: slipped}}
template:
  metadata: {labels: {app: slipped}}
spec:
  containers: [{name: web, image: kiamol/ch02-hello-kiamol}]
`

const rightDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: slipped}
spec:
  selector: {matchLabels: {app: slipped}}
  template:
    metadata: {labels: {app: slipped}}
    spec: {containers: [{name: web, image: kiamol/ch02-hello-kiamol}]}
`

func TestExampleReplicaSet(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.kubectl("apply", "-f", examples+"replicaset.yaml")
	s.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=3", "rs/greeters", "--timeout=60s")
	s.failsIn(wrongReplicaSet, []string{"apply", "-f", "-"}, "`selector` does not match template `labels`")
	s.failsIn(slippedDeployment, []string{"apply", "-f", "-"}, `unknown field "spec.containers", unknown field "template"`)
	s.apply(rightDeployment)
	s.kubectl("rollout", "status", "deployment/slipped")
	s.kubectl("delete", "rs", "greeters", "--cascade=orphan")
	equal(t, "Pods that stay", len(s.names("app=greeter")), 3)
	s.kubectl("delete", "pods", "-l", "app=greeter", "--now")
}

func TestExampleJobs(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("apply", "-f", examples+"job.yaml")
		s.kubectl("wait", "--for=condition=complete", "job/greeting", "--timeout=60s")
		equal(s.t, "logs", s.kubectl("logs", "job/greeting"), "Hello from a Job\n")
		row := strings.Fields(s.kubectl("get", "job", "greeting", "--no-headers"))
		equal(s.t, "row", strings.Join(row[:3], " "), "greeting Complete 1/1")
		s.kubectl("create", "job", "once", "--image=busybox", "--", "true")
		s.kubectl("wait", "--for=condition=complete", "job/once", "--timeout=60s")
		s.kubectl("apply", "-f", examples+"cronjob.yaml")
		s.kubectl("create", "job", "now", "--from=cronjob/hourly")
		s.kubectl("wait", "--for=condition=complete", "job/now", "--timeout=60s")
		s.kubectl("create", "cronjob", "made", "--image=busybox", "--schedule=0 0 1 1 *", "--", "true")
		s.kubectl("delete", "cronjob,job", "--all")
		s.kubectl("wait", "--for=delete", "pod", "--all", "--timeout=60s")
	})
}
