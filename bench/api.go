package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The load on the API: writers at the same time, each with its own connection, what they write, and how often the Pods are
// then listed.
const (
	writers = 16
	written = 4000
	listed  = 2000
	lists   = 50
)

// measureAPI measures the API with Pods that no scheduler and no node looks at. Every write is on disk when it is answered.
func measureAPI(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		if _, err := c.up(ctx); err != nil {
			return err
		}
		clients, err := c.clients(writers)
		if err != nil {
			return err
		}
		a := &apiBench{c: c, clients: clients}
		for _, step := range []func(context.Context) ([]figure, error){a.creates, a.patches, a.gets, a.listAll} {
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

type apiBench struct {
	c       *cluster
	clients []kubernetes.Interface
}

// unscheduled is a Pod that waits for a scheduler that does not exist.
func unscheduled(i int) *corev1.Pod {
	p := pod(fmt.Sprintf("pod-%d", i))
	p.Spec.SchedulerName = "nobody"
	return p
}

// load has the clients make n requests between them, and returns three figures: how many a second, with the given budget, how
// long each took, and what each cost the server.
func (a *apiBench) load(ctx context.Context, name string, n int, budget float64, request func(ctx context.Context, client kubernetes.Interface, i int) error) ([]figure, error) {
	var each []time.Duration
	var all time.Duration
	cpu, err := a.c.spent(func() (err error) {
		each, all, err = share(ctx, len(a.clients), n, func(ctx context.Context, worker, i int) error {
			return request(ctx, a.clients[worker], i)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	rate := single(fmt.Sprintf("%s by %d clients", name, len(a.clients)), "1/s", budget, float64(n)/all.Seconds())
	rate.moreBetter = true
	return []figure{
		rate,
		milliseconds(name+", each", 0, each),
		single(name+", server's CPU each", "us", 0, micros(cpu)/float64(n)),
	}, nil
}

func (a *apiBench) creates(ctx context.Context) ([]figure, error) {
	return a.load(ctx, "Pod creates", written, 2500, func(ctx context.Context, client kubernetes.Interface, i int) error {
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, unscheduled(i), metav1.CreateOptions{})
		return err
	})
}

func (a *apiBench) patches(ctx context.Context) ([]figure, error) {
	return a.load(ctx, "Pod merge-patches", written, 2000, func(ctx context.Context, client kubernetes.Interface, i int) error {
		body := fmt.Appendf(nil, `{"metadata":{"labels":{"round":"%d"}}}`, i)
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Patch(ctx, unscheduled(i).Name, types.MergePatchType, body, metav1.PatchOptions{})
		return err
	})
}

func (a *apiBench) gets(ctx context.Context) ([]figure, error) {
	return a.load(ctx, "Pod gets", written, 0, func(ctx context.Context, client kubernetes.Interface, i int) error {
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, unscheduled(i).Name, metav1.GetOptions{})
		return err
	})
}

// listAll lists Pods by one client, one request at a time, and does not decode what it gets.
func (a *apiBench) listAll(ctx context.Context) ([]figure, error) {
	client := a.clients[0].CoreV1().RESTClient()
	var took []time.Duration
	bytes := 0
	cpu, err := a.c.spent(func() error {
		for range lists {
			began := time.Now()
			body, err := client.Get().Namespace(metav1.NamespaceDefault).Resource("pods").Param("limit", fmt.Sprint(listed)).Do(ctx).Raw()
			if err != nil {
				return fmt.Errorf("list Pods: %w", err)
			}
			took, bytes = append(took, time.Since(began)), len(body)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []figure{
		milliseconds(fmt.Sprintf("list %d Pods, protobuf, not compressed", listed), 12, took),
		single("server's CPU for that", "ms", 0, micros(cpu)/1000/lists),
		single("size of that", "MB", 0, float64(bytes)/(1<<20)),
	}, nil
}
