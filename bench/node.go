package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// singles is how many Pods are created one after the other.
const singles = 20

// image is carried by Peapod itself.
const image = "peapod.local/hello:latest"

// grace is what Pods get to end by themselves, in seconds. A signal that comes before a container's program can have a
// handler is lost, as it is to any first process of a PID namespace: on a busy machine that happens to a Pod that is
// deleted as soon as it runs, and the median should be of those it does not happen to.
const grace = 2

// pod is the Pod that is created: one container that serves and sleeps, with all that a Pod has by default.
func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(grace)), Containers: []corev1.Container{{
			Name: "hello", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		}}},
	}
}

// measureNode measures Pods on a node, and the node between them.
func measureNode(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		n := &nodeBench{c: c, client: client}
		for _, step := range []func(context.Context) ([]figure, error){n.idle, n.oneByOne, n.atOnce, n.idleWithPods, n.deleteAll} {
			got, err := step(ctx)
			if err != nil {
				return err
			}
			figures = append(figures, got...)
		}
		return nil
	})
	return figures, err
}

// nodeBench is the state of measureNode's steps.
type nodeBench struct {
	c      *cluster
	client kubernetes.Interface
	// empty is the memory of the node without Pods, just before they were created.
	empty memory
}

// idle measures the node without Pods.
func (n *nodeBench) idle(ctx context.Context) ([]figure, error) {
	used, cpu, err := n.watchIdle(ctx)
	return []figure{
		single("memory, idle, RSS", "MB", 130, used.rss),
		single("memory, idle, anonymous", "MB", 60, used.anonymous),
		single("CPU, idle", "% of a core", 0.3, cpu),
	}, err
}

// watchIdle leaves the node alone, and returns its memory then and how much of a processor, in percent, it goes on to use.
func (n *nodeBench) watchIdle(ctx context.Context) (memory, float64, error) {
	if err := letPass(ctx, n.c.settle); err != nil {
		return memory{}, 0, err
	}
	pids, err := n.c.processes()
	if err != nil {
		return memory{}, 0, err
	}
	used, err := memoryOf(pids)
	if err != nil {
		return memory{}, 0, err
	}
	began := time.Now()
	cpu, err := n.c.spent(func() error { return letPass(ctx, n.c.idle) })
	return used, 100 * float64(cpu) / float64(time.Since(began)), err
}

// letPass lets time pass.
func letPass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// oneByOne measures from the call that creates a Pod to the event that says it runs, and from the call that deletes it to
// the event that says it is gone.
func (n *nodeBench) oneByOne(ctx context.Context) ([]figure, error) {
	var running, gone []time.Duration
	for i := range singles {
		up, down, err := n.one(ctx, fmt.Sprintf("single-%d", i))
		if err != nil {
			return nil, err
		}
		running, gone = append(running, up), append(gone, down)
	}
	return []figure{
		milliseconds("Pod create to Running", 60, running),
		milliseconds("Pod delete to gone", 0, gone),
	}, nil
}

func (n *nodeBench) one(ctx context.Context, name string) (running, gone time.Duration, err error) {
	all, err := n.c.watchPods(ctx, n.client)
	if err != nil {
		return 0, 0, err
	}
	defer all.stop()
	began := time.Now()
	if _, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod(name), metav1.CreateOptions{}); err != nil {
		return 0, 0, fmt.Errorf("create Pod: %w", err)
	}
	if err := all.await(ctx, "a running Pod", func() bool { return all.running() == 1 }); err != nil {
		return 0, 0, err
	}
	running = time.Since(began)
	began = time.Now()
	if err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, 0, fmt.Errorf("delete Pod: %w", err)
	}
	err = all.await(ctx, "the Pod's end", func() bool { return len(all.phase) == 0 })
	return running, time.Since(began), err
}

// atOnce creates all Pods from as many calls at the same time.
func (n *nodeBench) atOnce(ctx context.Context) ([]figure, error) {
	if err := letPass(ctx, n.c.settle); err != nil {
		return nil, err
	}
	pids, err := n.c.processes()
	if err != nil {
		return nil, err
	}
	if n.empty, err = memoryOf(pids); err != nil {
		return nil, err
	}
	all, err := n.c.watchPods(ctx, n.client)
	if err != nil {
		return nil, err
	}
	defer all.stop()
	var took time.Duration
	cpu, err := n.c.spent(func() error {
		began := time.Now()
		_, _, err := share(ctx, n.c.pods, n.c.pods, func(ctx context.Context, _, i int) error {
			_, err := n.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod(fmt.Sprintf("many-%d", i)), metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("create Pods: %w", err)
		}
		err = all.await(ctx, "running Pods", func() bool { return all.running() == n.c.pods })
		took = time.Since(began)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []figure{
		single(fmt.Sprintf("%d Pods at once, all Running", n.c.pods), "s", 2.5, took.Seconds()),
		single("CPU of that, a Pod", "ms", 0, float64(cpu)/float64(time.Millisecond)/float64(n.c.pods)),
	}, nil
}

// idleWithPods measures the node while its Pods have nothing to do.
func (n *nodeBench) idleWithPods(ctx context.Context) ([]figure, error) {
	used, cpu, err := n.watchIdle(ctx)
	each := func(with, without float64) float64 { return (with - without) / float64(n.c.pods) }
	return []figure{
		single("memory a Pod beyond its own, anonymous", "MB", 0.7, each(used.anonymous, n.empty.anonymous)),
		// Pages of the executable come and go with what was last done, not with Pods.
		single("memory a Pod beyond its own, RSS", "MB", 0, each(used.rss, n.empty.rss)),
		single(fmt.Sprintf("CPU, %d idle Pods", n.c.pods), "% of a core", 1, cpu),
	}, err
}

// deleteAll deletes all Pods by one request.
func (n *nodeBench) deleteAll(ctx context.Context) ([]figure, error) {
	all, err := n.c.watchPods(ctx, n.client)
	if err != nil {
		return nil, err
	}
	defer all.stop()
	if err := all.await(ctx, "the Pods", func() bool { return len(all.phase) == n.c.pods }); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := n.client.CoreV1().Pods(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return nil, fmt.Errorf("delete Pods: %w", err)
	}
	if err := all.await(ctx, "the Pods' end", func() bool { return len(all.phase) == 0 }); err != nil {
		return nil, err
	}
	return []figure{single(fmt.Sprintf("%d Pods deleted at once, all gone", n.c.pods), "s", 0, time.Since(began).Seconds())}, nil
}

// podWatch follows the phases of the Pods in the default namespace.
type podWatch struct {
	c     *cluster
	watch watch.Interface
	phase map[string]corev1.PodPhase
}

func (c *cluster) watchPods(ctx context.Context, client kubernetes.Interface) (*podWatch, error) {
	w, err := client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch Pods: %w", err)
	}
	return &podWatch{c: c, watch: w, phase: map[string]corev1.PodPhase{}}, nil
}

func (p *podWatch) stop() { p.watch.Stop() }

// running counts the Pods that run.
func (p *podWatch) running() (n int) {
	for _, phase := range p.phase {
		if phase == corev1.PodRunning {
			n++
		}
	}
	return n
}

// await follows until done. A Pod that ends by itself is an error: none should.
func (p *podWatch) await(ctx context.Context, what string, done func() bool) error {
	for !done() {
		select {
		case event, ok := <-p.watch.ResultChan():
			if !ok {
				return fmt.Errorf("wait for %s: the watch ended", what)
			}
			pod, isPod := event.Object.(*corev1.Pod)
			if !isPod {
				continue
			}
			if event.Type == watch.Deleted {
				delete(p.phase, pod.Name)
				continue
			}
			if pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil {
				return fmt.Errorf("wait for %s: Pod %s failed: %s", what, pod.Name, reasons(pod))
			}
			p.phase[pod.Name] = pod.Status.Phase
		case <-p.c.exited:
			return p.c.ended(ctx, what)
		case <-ctx.Done():
			return p.c.ended(ctx, fmt.Sprintf("%s (%d of %d run)", what, p.running(), len(p.phase)))
		}
	}
	return nil
}

// reasons is what the status says of why the Pod does not run.
func reasons(pod *corev1.Pod) string {
	all := []string{pod.Status.Reason + " " + pod.Status.Message}
	for _, status := range pod.Status.ContainerStatuses {
		all = append(all, fmt.Sprintf("%+v", status.State))
	}
	return strings.Join(slices.Compact(all), "; ")
}
