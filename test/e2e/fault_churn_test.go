package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/test/e2e/cluster"
)

// sleepers is a Deployment of busybox Pods that end at once when they are told to.
func sleepers(name string, replicas int, spec string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '1000000'], env: [{name: VERSION, value: '1'}]}]
  %[3]s
---
`, name, replicas, spec)
}

// version is what a sleeper is told to be.
func version(p *corev1.Pod) string { return p.Spec.Containers[0].Env[0].Value }

// A rollout goes on where it was when its controllers were killed, and ends with as many Pods as it should, all of them new.
func TestRolloutOutlivesItsControllers(t *testing.T) {
	t.Parallel()
	const replicas, surge = 8, 2
	o := newOwn(t)
	s := o.space()
	verb(t, o.Cluster, "", "image", "pull", "busybox").want(t, "pull", 0)
	s.awaitAccount()
	clean := o.inventory()
	s.apply(sleepers("web", replicas, fmt.Sprintf("strategy: {rollingUpdate: {maxSurge: %d, maxUnavailable: 1}}", surge)))
	s.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	l := s.look("app=web")
	// follow fails the test over a Pod too many, until there are so many new ones.
	follow := func(wanted int) {
		t.Helper()
		l.until(fmt.Sprint(wanted, " new ones"), func() bool {
			fresh := 0
			for _, p := range l.pods {
				if version(p) == "2" {
					fresh++
				}
			}
			return fresh >= wanted
		}, func() {
			live := 0
			for _, p := range l.pods {
				if p.DeletionTimestamp == nil {
					live++
				}
			}
			if live > replicas+surge {
				t.Errorf("there are %d Pods at once, of %d and %d more", live, replicas, surge)
			}
		})
	}
	s.kubectl("set", "env", "deployment/web", "VERSION=2")
	for _, wanted := range []int{1, replicas / 2} {
		follow(wanted)
		o.killServer()
		o.restart()
		o.client = clientOf(t, o.Cluster)
		s.client = o.client
		l = s.look("app=web")
	}
	follow(replicas)
	s.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	s.kubectl("wait", "--for=jsonpath={.status.replicas}="+strconv.Itoa(replicas), "deployment/web", "--timeout=60s")
	containers := map[string]bool{}
	list, err := s.client.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil {
			equal(t, "version of "+p.Name, version(p), "2")
			containers[strings.TrimPrefix(only(t, p).ContainerID, "peapod://")] = true
		}
	}
	equal(t, "Pods", len(containers), replicas)
	sets, err := s.client.AppsV1().ReplicaSets(s.name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int32{}
	for _, rs := range sets.Items {
		sizes[rs.Annotations["deployment.kubernetes.io/revision"]] = *rs.Spec.Replicas
	}
	if want := map[string]int32{"1": 0, "2": replicas}; !maps.Equal(sizes, want) {
		t.Errorf("the ReplicaSets by revision are of %v, want %v", sizes, want)
	}
	o.wantContainers(containers)
	s.kubectl("delete", "deployment", "web")
	o.wantInventory(clean)
}

// Owners with one label between them do not take Pods from each other, and share what is nobody's.
func TestOwnersOfOneLabel(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	replicaSet := func(name string, replicas int) string {
		return fmt.Sprintf(`apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: %s}
spec:
  replicas: %d
  selector: {matchLabels: {app: both}}
  template:
    metadata: {labels: {app: both}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '1000000']}]
---
`, name, replicas)
	}
	s.apply(replicaSet("a", 2) + replicaSet("b", 3) + strings.Replace(sleepers("c", 2, ""), "app: c", "app: both", -1))
	want := map[string]int{"a": 2, "b": 3, "c": 2}
	l := s.look("")
	owners := func() map[string]int {
		counts := map[string]int{}
		for _, p := range l.pods {
			owner := metav1.GetControllerOf(p)
			switch {
			case p.DeletionTimestamp != nil:
			case owner == nil:
				counts["nobody"]++
			default:
				name, _, _ := strings.Cut(owner.Name, "-") // The Deployment's has its hash behind that.
				counts[name]++
			}
		}
		return counts
	}
	settled := func() bool {
		return maps.Equal(owners(), want) && len(l.pods) == 2+3+2 && len(l.ready()) == len(l.pods)
	}
	l.until("all there", settled, nil)
	for range 5 {
		// All leave, and each owner makes others; all come back, and whoever is first takes them, and has too many.
		gone := l.ready()
		s.kubectl(slices.Concat([]string{"label", "pods", "--overwrite"}, gone, []string{"app=nobody"})...)
		l.until("replaced", func() bool {
			counts := owners()
			none := counts["nobody"] == len(gone)
			delete(counts, "nobody")
			return none && maps.Equal(counts, want)
		}, nil)
		s.kubectl("label", "pods", "--overwrite", "-l", "app=nobody", "app=both")
		l.until("as many as before", settled, nil)
	}
	before := fmt.Sprint(l.ready())
	// Nothing goes on behind that: what another Deployment has done meanwhile, these would have done.
	s.apply(sleepers("later", 2, ""))
	s.kubectl("rollout", "status", "deployment/later", "--timeout=60s")
	after := s.look("app=both")
	equal(t, "the Pods a while later", fmt.Sprint(after.ready()), before)
	s.kubectl("delete", "rs,deployment", "--all")
	s.kubectl("wait", "--for=delete", "pod", "--all", "--timeout=60s")
}

// asker asks an address over and over, with a connection for each request, and counts what it gets.
type asker struct {
	mu       sync.Mutex
	answers  map[string]int
	failures []error
}

// keepAsking runs until stop is called, which waits for its end.
func keepAsking(t *testing.T, address string) (a *asker, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	a = &asker{answers: map[string]int{}}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for ctx.Err() == nil {
				answer, err := a.once(client, address)
				a.mu.Lock()
				if a.answers[answer]++; err != nil {
					a.failures = append(a.failures, err)
				}
				a.mu.Unlock()
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return a, stop
}

// once is not ended by the test's end: a request that is cut off would count as lost.
func (a *asker) once(client *http.Client, address string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text := make([]byte, 256)
	n, _ := answer.Body.Read(text) // What is not there is not counted as it.
	if answer.StatusCode != http.StatusOK || n == 0 {
		return "", fmt.Errorf("status %s with %d bytes", answer.Status, n)
	}
	return strings.TrimSpace(string(text[:n])), nil
}

// want fails the test over a lost request.
func (a *asker) want(t *testing.T, what string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	t.Logf("%s: answers %v", what, a.answers)
	if len(a.failures) > 0 {
		t.Errorf("%s: %d requests are lost, the first: %v", what, len(a.failures), a.failures[0])
	}
	if len(a.answers) == 0 {
		t.Errorf("%s: nobody has answered", what)
	}
}

// Requests are not lost to Pods that are ready now and not then, nor to a rollout whose Pods go on until their end is known.
func TestNoRequestIsLostWhilePodsComeAndGo(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: greeter}
spec:
  replicas: 3
  selector: {matchLabels: {app: greeter}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: greeter}}
    spec:
      terminationGracePeriodSeconds: 30
      readinessGates: [{conditionType: example.com/willing}]
      containers:
      - name: web
        image: peapod.local/hello:latest
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: v1
kind: Service
metadata: {name: greeter}
spec: {selector: {app: greeter}, ports: [{port: 80, targetPort: 8080}]}
`)
	willing := func(pod string, is bool) {
		t.Helper()
		status := map[bool]string{true: "True", false: "False"}[is]
		s.kubectl("patch", "pod", pod, "--subresource=status", "-p",
			`{"status":{"conditions":[{"type":"example.com/willing","status":"`+status+`"}]}}`)
	}
	l := s.look("app=greeter")
	// All that come are made willing, which is what their rollout waits for.
	asked := map[string]bool{}
	eager := func() {
		for name := range l.pods {
			if !asked[name] {
				asked[name] = true
				willing(name, true)
			}
		}
	}
	eager()
	l.until("ready", func() bool { return len(l.ready()) == 3 }, eager)
	s.endpoints("greeter", 3)
	address := s.kubectl("get", "service", "greeter", "-o", "jsonpath={.spec.clusterIP}")
	reached(t, address)

	flapping, stop := keepAsking(t, address)
	pods := l.ready()
	for i := range 8 {
		pod := pods[i%2]
		willing(pod, false)
		l.until("without "+pod, func() bool { return len(l.ready()) == 2 }, nil)
		willing(pod, true)
		l.until("with "+pod, func() bool { return len(l.ready()) == 3 }, nil)
	}
	stop()
	flapping.want(t, "flapping")

	s.endpoints("greeter", 3)
	rolling, stop := keepAsking(t, address)
	s.kubectl("rollout", "restart", "deployment/greeter")
	l.until("replaced", func() bool {
		for _, old := range pods {
			if l.pods[old] != nil {
				return false
			}
		}
		return len(l.ready()) == 3
	}, eager)
	stop()
	rolling.want(t, "rolling")
}

// rules counts what of the instance's Services and Pods is in the kernel.
func (o *own) rules() map[string]int {
	o.t.Helper()
	pods, services := o.Place().Tables()
	counts := map[string]int{}
	for _, table := range []string{pods, services} {
		elements, err := nettest.Elements(table)
		if err != nil {
			o.t.Fatal(err)
		}
		for set, n := range elements {
			counts[table+" "+set] = n
		}
	}
	return counts
}

// resident is the memory of the server, in MiB.
func (o *own) resident() int {
	o.t.Helper()
	mib, err := cluster.Resident(o.ServerPID())
	if err != nil {
		o.t.Fatal(err)
	}
	return mib
}

// goroutines is how many the server has, by its own metrics.
func (s *space) goroutines() int {
	s.t.Helper()
	n, err := cluster.Goroutines(s.kubectl("get", "--raw", "/metrics"))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// 500 Services that come and go leave no rule, no address, no port, no object, and no memory worth a mention.
func TestServicesComeAndGo(t *testing.T) {
	t.Parallel()
	// There are 253 addresses: Services that kept theirs would use them up in the second round.
	const rounds, batch = 3, 200
	o := newOwn(t, "--service-cidr", fmt.Sprintf("198.19.%d.0/24", os.Getpid()%256))
	s := o.space()
	verb(t, o.Cluster, "", "image", "pull", "nginx:1.14.2").want(t, "pull", 0)
	verb(t, o.Cluster, "", "image", "pull", "gentledev10/ubuntu-curl").want(t, "pull", 0)
	s.awaitAccount()
	s.apply(pageOf("one", "") + pages("kept", ", type: NodePort"))
	s.ready("one")
	s.endpoints("kept", 1)
	kept := s.kubectl("get", "service", "kept", "-o", "jsonpath={.spec.clusterIP}")
	rules := nettest.FollowRules(t)
	rules.Until("the Service that stays answers", func() error { return host(t, kept) })
	machine, before := o.inventory(), o.rules()
	var memory, goroutines []int
	for range rounds {
		o.servicesComeAndGo(s, rules, batch, before)
		memory, goroutines = append(memory, o.resident()), append(goroutines, s.goroutines())
	}
	t.Logf("after each round: %v MiB, %v goroutines", memory, goroutines)
	// The first round's is what so many Services take while they are there; more rounds take no more.
	if last := memory[rounds-1]; last > memory[0]*5/4+16 {
		t.Errorf("the server's memory grew from %d to %d MiB", memory[0], last)
	}
	if last := goroutines[rounds-1]; last > goroutines[0]*5/4+50 {
		t.Errorf("the server's goroutines grew from %d to %d", goroutines[0], last)
	}
	equal(t, "IPAddresses", strings.Count(s.kubectl("get", "ipaddresses", "-o", "name"), "\n"), 3)       // And the API's and that of names.
	equal(t, "EndpointSlices", strings.Count(s.kubectl("get", "endpointslices", "-o", "name"), "\n"), 2) // And the API's.
	if err := host(t, kept); err != nil {
		t.Errorf("the Service that stays: %v", err)
	}
	o.wantInventory(machine)
}

// servicesComeAndGo makes Services of one Pod, waits until the last answers, removes them all and waits until the rules are as
// they were.
func (o *own) servicesComeAndGo(s *space, rules *nettest.Rules, n int, before map[string]int) {
	o.t.Helper()
	services := o.client.CoreV1().Services(s.name)
	addresses := make([]string, n)
	err := together(n, func(i int) error {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("churn-%d", i)}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "pages"}, Ports: []corev1.ServicePort{{Port: 80}}}}
		made, err := services.Create(o.t.Context(), svc, metav1.CreateOptions{})
		if err == nil {
			addresses[i] = made.Spec.ClusterIP
		}
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		rules.Until("a new Service answers", func() error { return host(o.t, addresses[i]) })
	}
	err = together(n, func(i int) error {
		return services.Delete(o.t.Context(), fmt.Sprintf("churn-%d", i), metav1.DeleteOptions{})
	})
	if err != nil {
		o.t.Fatal(err)
	}
	rules.Until("the rules are as before", func() error {
		if now := o.rules(); !maps.Equal(now, before) {
			return fmt.Errorf("there is %v and was %v", now, before)
		}
		return nil
	})
	// Their EndpointSlices and Endpoints go after them.
	for _, kind := range []string{"endpointslice", "endpoints"} {
		s.kubectl("wait", "--for=delete", kind, "-l", "kubernetes.io/service-name,kubernetes.io/service-name notin (kept,kubernetes)", "--timeout=60s")
	}
}

// together calls f for 0 to n-1, some at a time.
func together(n int, f func(int) error) error {
	const workers = 8
	errs := make([]error, n)
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for i := w; i < n; i += workers {
				errs[i] = f(i)
			}
		})
	}
	working.Wait()
	return errors.Join(errs...)
}
