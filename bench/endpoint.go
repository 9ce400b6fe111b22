package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	// deaths is how many endpoints die one after the other; two stay.
	deaths = 8
	// askers is how many clients ask the Service all the time.
	askers = 4
	// afterDeath is how long requests are watched after the API says that the endpoint's Pod has failed.
	afterDeath = 500 * time.Millisecond
)

// measureEndpoint measures how long requests to a Service fail when one of its endpoints dies without a word: its processes
// are killed, and its Pod is not restarted. A request counts by when it was sent.
func measureEndpoint(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		pods, address, err := c.endpoints(ctx, client)
		if err != nil {
			return err
		}
		var last []time.Duration
		failed, asked := 0, 0
		for _, pod := range pods[:deaths] {
			died, requests, err := c.kill(ctx, client, pod, address)
			if err != nil {
				return err
			}
			var until time.Duration
			for _, r := range requests {
				asked++
				if r.err != nil {
					failed++
					until = max(until, r.sent.Sub(died))
				}
			}
			last = append(last, until)
		}
		figures = []figure{
			milliseconds("endpoint killed, to last failed request", 0, last),
			single("requests that failed, a death", "", 0, float64(failed)/deaths),
			single("requests meanwhile, a death", "", 0, float64(asked)/deaths),
		}
		return nil
	})
	return figures, err
}

// endpoints makes a Service with running Pods behind it, and returns them and its address.
func (c *cluster) endpoints(ctx context.Context, client kubernetes.Interface) ([]*corev1.Pod, string, error) {
	all, err := c.watchPods(ctx, client)
	if err != nil {
		return nil, "", err
	}
	defer all.stop()
	var pods []*corev1.Pod
	for i := range deaths + 2 {
		p := pod(fmt.Sprintf("endpoint-%d", i))
		p.Labels, p.Spec.RestartPolicy = map[string]string{"app": "endpoint"}, corev1.RestartPolicyNever
		made, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			return nil, "", fmt.Errorf("create Pod: %w", err)
		}
		pods = append(pods, made)
	}
	svc, err := client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service("endpoint", "endpoint"), metav1.CreateOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("create Service: %w", err)
	}
	if err := all.await(ctx, "running Pods", func() bool { return all.running() == len(pods) }); err != nil {
		return nil, "", err
	}
	// A Pod that runs may not listen yet. It is quiet when no request fails.
	quiet := errors.New("not asked")
	for quiet != nil && ctx.Err() == nil {
		requests := keepAsking(ctx, svc.Spec.ClusterIP, time.After(afterDeath))
		quiet = nil
		for _, r := range requests {
			quiet = errors.Join(quiet, r.err)
		}
	}
	return pods, svc.Spec.ClusterIP, ctx.Err()
}

// kill ends the processes of the Pod while clients ask the address, and returns when it did so and what became of the requests.
func (c *cluster) kill(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, address string) (died time.Time, requests []request, err error) {
	w, err := client.CoreV1().Pods(pod.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		return died, nil, fmt.Errorf("watch Pod: %w", err)
	}
	pids, err := processesOf(pod.UID)
	if err != nil {
		w.Stop()
		return died, nil, err
	}
	over := make(chan time.Time)
	var asking sync.WaitGroup
	asking.Go(func() { requests = keepAsking(ctx, address, over) })
	err = letPass(ctx, afterDeath) // so that all clients ask by then
	died = time.Now()
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	if err == nil {
		err = c.follow(ctx, w, "the Pod's end", func(e watch.Event) (bool, error) {
			p, ok := e.Object.(*corev1.Pod)
			return ok && p.Status.Phase == corev1.PodFailed, nil
		})
	}
	err = errors.Join(err, letPass(ctx, afterDeath))
	close(over)
	asking.Wait()
	return died, requests, err
}

// request is what became of one request.
type request struct {
	sent time.Time
	err  error
}

// keepAsking asks the address from several clients, each one request after the other, until over.
func keepAsking(ctx context.Context, address string, over <-chan time.Time) []request {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all := make([][]request, askers)
	var asking sync.WaitGroup
	for i := range askers {
		asking.Go(func() {
			for ctx.Err() == nil {
				r := request{sent: time.Now()}
				if r.err = ask(ctx, address); ctx.Err() == nil { // what is cut short has not failed
					all[i] = append(all[i], r)
				}
			}
		})
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
	cancel()
	asking.Wait()
	var list []request
	for _, some := range all {
		list = append(list, some...)
	}
	return list
}

// processesOf returns the processes of a Pod: those in a cgroup with its name.
func processesOf(pod types.UID) ([]int, error) {
	pids, err := processesWhose("cgroup", func(said string) bool { return strings.Contains(said, "/pod"+string(pod)+"/") })
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("find the processes of Pod %s: there are none", pod)
	}
	return pids, nil
}
