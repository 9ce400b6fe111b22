package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// writer creates and deletes Pods while the server crashes, and keeps a record of what was acknowledged.
type writer struct {
	namespace string
	random    *rand.Rand
	next      int           // number of the next Pod
	acks      chan struct{} // one element for each acknowledged write

	mu      sync.Mutex
	created map[string]types.UID // acknowledged, and no deletion was tried
	deleted map[string]types.UID // the deletion was acknowledged
	unsure  map[string]bool      // a request got no answer
	refused []error              // answers that are not what was asked for
}

// run writes until there is no server to answer.
func (w *writer) run(ctx context.Context, client kubernetes.Interface) {
	pods := client.CoreV1().Pods(w.namespace)
	for err := error(nil); err == nil; {
		name, grace, create := w.choose()
		if create {
			var p *corev1.Pod
			p, err = pods.Create(ctx, marked(name), metav1.CreateOptions{})
			w.creation(name, p, err)
			continue
		}
		err = pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
		w.deletion(name, err)
	}
}

// unanswered notes a request that failed. w.mu is held.
func (w *writer) unanswered(name string, err error) {
	w.unsure[name] = true
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		w.refused = append(w.refused, fmt.Errorf("Pod %s: %w", name, err))
	}
}

// choose says what to do next: create a Pod of a new name, or delete one that is there, which it forgets.
func (w *writer) choose() (name string, grace int64, create bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.created) < 3 || w.random.IntN(3) > 0 {
		w.next++
		return fmt.Sprintf("pod-%d", w.next), 0, true
	}
	names := slices.Sorted(maps.Keys(w.created))
	name = names[w.random.IntN(len(names))]
	w.deleted[name] = w.created[name]
	delete(w.created, name)
	return name, int64(w.random.IntN(2)), false
}

func (w *writer) deletion(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		delete(w.deleted, name)
		w.unanswered(name, err)
		return
	}
	w.acknowledge()
}

func (w *writer) creation(name string, p *corev1.Pod, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.unanswered(name, err)
		return
	}
	w.created[name] = p.UID
	w.acknowledge()
}

// acknowledge never waits: whoever counts may have enough.
func (w *writer) acknowledge() {
	select {
	case w.acks <- struct{}{}:
	default:
	}
}

// marked is a Pod whose one process carries its name, and whose log has a line for each start.
func marked(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []corev1.Container{{
			Name: "main", Image: "busybox", ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"sh", "-c", "echo started; exec sleep 1000000"},
		}}},
	}
}

// seedOf is PEAPOD_TEST_SEED, to try other orders of events than the usual one.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	text := cmp.Or(os.Getenv("PEAPOD_TEST_SEED"), "20")
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("PEAPOD_TEST_SEED: %v", err)
	}
	t.Logf("PEAPOD_TEST_SEED=%d", seed)
	return seed
}

// kill -9 of the server at any instant loses no acknowledged write and no container, and makes none twice.
func TestServerCrashesWhilePodsComeAndGo(t *testing.T) {
	t.Parallel()
	const crashes, writes, writers = 5, 12, 3
	seed := seedOf(t)
	random := rand.New(rand.NewPCG(seed, 0))
	o := newOwn(t)
	s := o.space()
	verb(t, o.Cluster, "", "image", "pull", "busybox").want(t, "pull", 0)
	s.awaitAccount()
	clean := o.inventory()

	w := &writer{namespace: s.name, random: rand.New(rand.NewPCG(seed, 1)), acks: make(chan struct{}, 1024),
		created: map[string]types.UID{}, deleted: map[string]types.UID{}, unsure: map[string]bool{}}
	seen := newSightings()
	for range crashes {
		o.crashUnder(s, w, seen, writers, 1+random.IntN(writes))
	}
	t.Logf("acknowledged: %d created and kept, %d deleted; in doubt: %d", len(w.created), len(w.deleted), len(w.unsure))

	for name, uid := range w.deleted {
		o.awaitGone(s.name, name, uid)
	}
	list, err := o.client.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil {
			o.awaitGone(s.name, p.Name, p.UID)
			continue
		}
		there[p.Name] = true
		if _, ok := w.created[p.Name]; !ok && !w.unsure[p.Name] {
			t.Errorf("Pod %s was never asked for, or is back", p.Name)
		}
	}
	containers := map[string]bool{}
	for name, uid := range w.created {
		if !there[name] {
			t.Errorf("the creation of Pod %s was acknowledged, and it is not there", name)
			continue
		}
		s.ready(name)
		equal(t, "UID of "+name, s.get(name).UID, uid)
	}
	for name := range there {
		s.ready(name)
		st := only(t, s.get(name))
		containers[strings.TrimPrefix(st.ContainerID, "peapod://")] = true
		if st.RestartCount != 0 {
			t.Errorf("%s was restarted: %+v; its log before:\n%s", name, st, s.try("logs", "--previous", name).stdout)
		}
		equal(t, "log of "+name, s.logged("^started$", name), "started\n")
		seen.check(t, name, st)
	}
	o.wantContainers(containers)

	s.kubectl("delete", "pods", "--all", "--grace-period=1")
	o.wantInventory(clean)
}

// crashUnder has writers write, kills the server when so many writes have been acknowledged, and starts it again.
func (o *own) crashUnder(s *space, w *writer, seen *sightings, writers, writes int) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for range writers {
		clients.Go(func() { w.run(ctx, o.client) })
	}
	clients.Go(func() { seen.watch(ctx, o.client, s.name) })
	enough := within(o.t, patience)
	for range writes {
		select {
		case <-w.acks:
		case <-enough.Done():
			o.t.Error("the server takes no more writes, and was not killed")
		}
	}
	o.killServer()
	cancel()
	clients.Wait()
	if err := errors.Join(w.refused...); err != nil {
		o.t.Fatal(err)
	}
	o.restart()
	o.client = clientOf(o.t, o.Cluster)
	s.client = o.client
}

// awaitAccount waits until Pods can be made in the namespace.
func (s *space) awaitAccount() {
	s.t.Helper()
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	s.kubectl("wait", "--for=create", "configmap/kube-root-ca.crt", "--timeout=60s")
}

// awaitGone waits until the Pod with a UID does not exist.
func (o *own) awaitGone(namespace, name string, uid types.UID) {
	o.t.Helper()
	ctx := within(o.t, patience)
	w, err := o.client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		o.t.Fatal(err)
	}
	defer w.Stop()
	for {
		p, err := o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && p.UID != uid {
			return
		}
		if err != nil {
			o.t.Fatal(err)
		}
		if p.DeletionTimestamp == nil {
			o.t.Errorf("the deletion of Pod %s was acknowledged, and it lives", name)
			return
		}
		if _, ok := <-w.ResultChan(); !ok {
			o.t.Fatalf("Pod %s is not gone in time: %+v", name, p.Status)
		}
	}
}

// sightings are the containers that clients saw run.
type sightings struct {
	mu      sync.Mutex
	running map[string]corev1.ContainerStatus // by name of Pod
}

func newSightings() *sightings { return &sightings{running: map[string]corev1.ContainerStatus{}} }

// watch notes containers until ctx ends.
func (s *sightings) watch(ctx context.Context, client kubernetes.Interface, namespace string) {
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return // The server has crashed before it answered.
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		s.mu.Lock()
		for _, st := range p.Status.ContainerStatuses {
			if _, ok := s.running[p.Name]; st.State.Running != nil && !ok {
				s.running[p.Name] = st
			}
		}
		s.mu.Unlock()
	}
}

// check fails the test unless a container is the one that was first seen.
func (s *sightings) check(t *testing.T, pod string, now corev1.ContainerStatus) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	first, ok := s.running[pod]
	if !ok {
		return
	}
	equal(t, "container of "+pod, now.ContainerID, first.ContainerID)
	if !now.State.Running.StartedAt.Equal(&first.State.Running.StartedAt) {
		t.Errorf("the container of %s started at %v, and later at %v", pod, first.State.Running.StartedAt, now.State.Running.StartedAt)
	}
}

// supervisor is the process ID of the instance's supervisor.
func (o *own) supervisor() int {
	o.t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		o.t.Fatal(err)
	}
	for _, file := range cmdlines {
		b, err := os.ReadFile(file)
		if args := strings.Split(string(b), "\x00"); err == nil && len(args) > 1 && args[1] == "supervise" && strings.Contains(string(b), o.Instance.DataDir+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				o.t.Fatal(err)
			}
			return pid
		}
	}
	o.t.Fatal("no supervisor runs")
	return 0
}

// The supervisor is the containers' parent: they end with it, and Pods go on as their policy says.
func TestSupervisorCrash(t *testing.T) {
	t.Parallel()
	for _, serverRuns := range []bool{true, false} {
		t.Run(fmt.Sprintf("server runs %v", serverRuns), func(t *testing.T) {
			o := newOwn(t)
			s := o.space()
			s.apply(script("always", "exec sleep 1000000", "restartPolicy: Always", "") +
				script("onfailure", "exec sleep 1000000", "restartPolicy: OnFailure", "") +
				script("never", "exec sleep 1000000", "restartPolicy: Never", ""))
			s.ready("always", "onfailure", "never")
			old := map[string]string{}
			for _, pod := range []string{"always", "onfailure", "never"} {
				old[pod] = only(t, s.get(pod)).ContainerID
			}
			if !serverRuns {
				o.killServer()
			}
			if err := syscall.Kill(o.supervisor(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if !serverRuns {
				o.restart()
				s.client = clientOf(t, o.Cluster)
			}
			for _, pod := range []string{"always", "onfailure"} {
				p := s.awaitPod(pod, "started again", func(p *corev1.Pod) bool {
					st := p.Status.ContainerStatuses
					return len(st) == 1 && st[0].State.Running != nil && st[0].ContainerID != old[pod]
				})
				equal(t, "restarts of "+pod, only(t, p).RestartCount, 1)
				if last := only(t, p).LastTerminationState.Terminated; last == nil || last.ExitCode == 0 {
					t.Errorf("last state of %s is %+v", pod, last)
				}
			}
			p := s.phase("never", corev1.PodFailed)
			equal(t, "its container", only(t, p).ContainerID, old["never"])
			running := map[string]bool{}
			for _, pod := range []string{"always", "onfailure"} {
				running[strings.TrimPrefix(only(t, s.get(pod)).ContainerID, "peapod://")] = true
			}
			for _, id := range o.inventory().Containers {
				if !running[id] {
					t.Errorf("container %s outlived its supervisor", id)
				}
			}
			s.kubectl("exec", "always", "--", "true")
			s.apply(script("after", "exec sleep 1000000", "", ""))
			s.ready("after")
		})
	}
}
