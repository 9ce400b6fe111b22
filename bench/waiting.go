package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/peapod/peapod/scheduler"
)

// ownScheduler is the name of the scheduler that this process runs.
const ownScheduler = "bench"

// bindWaiting measures a scheduler that starts when all of its Pods wait for it. It runs in a process of its own, which is this one,
// as Kubernetes' does: it reads and binds through the network, and what the server spends is for bindings and events alone. Events follow the bindings; how
// many of them had been written when the last Pod was bound is a figure of its own.
func (h *hollow) bindWaiting(ctx context.Context, nodes, pods int) ([]figure, error) {
	first := h.pods
	h.pods += pods
	_, _, err := share(ctx, len(h.clients), pods, func(ctx context.Context, worker, i int) error {
		p := hollowPod(first + i)
		p.Spec.SchedulerName = ownScheduler
		_, err := h.clients[worker].CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create waiting Pods: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	client := h.clients[0]
	factory := informers.NewSharedInformerFactory(client, 0)
	defer factory.Shutdown()
	told := &counter{EventSink: scheduler.NewSink(client.EventsV1())}
	broadcaster := events.NewBroadcaster(told)
	defer broadcaster.Shutdown()
	s, err := scheduler.New(scheduler.Config{
		Client: client, Informers: factory, Recorder: broadcaster.NewRecorder(scheme.Scheme, ownScheduler), Name: ownScheduler,
	})
	if err != nil {
		return nil, err
	}
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	all, err := countBound(factory, pods)
	if err != nil {
		return nil, err
	}
	var running sync.WaitGroup
	var runErr error
	var took time.Duration
	var written int64
	cpu, err := h.c.spent(func() error {
		began := time.Now()
		running.Go(func() { runErr = s.Run(ctx) })
		err := h.c.await(ctx, all, fmt.Sprintf("%d waiting Pods on %d nodes", pods, nodes))
		took, written = time.Since(began), told.written.Load()
		return err
	})
	stop()
	running.Wait()
	rate := single(fmt.Sprintf("waiting Pods bound, %d nodes", nodes), "1/s", 0, float64(pods)/took.Seconds())
	rate.moreBetter = true
	return []figure{
		rate,
		single("server's CPU for each", "us", 0, micros(cpu)/float64(pods)),
		single("events of them written by then", "%", 0, 100*float64(written)/float64(pods)),
	}, errors.Join(err, runErr)
}

// countBound closes all when so many Pods that wait now have a node. It looks with the scheduler's own informer, which lists again
// where it cannot keep up: a watch would end.
func countBound(factory informers.SharedInformerFactory, pods int) (all <-chan struct{}, err error) {
	done := make(chan struct{})
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, now any) {
			if before.(*corev1.Pod).Spec.NodeName != "" || now.(*corev1.Pod).Spec.NodeName == "" {
				return
			}
			if pods--; pods == 0 {
				close(done)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("follow Pods: %w", err)
	}
	return done, nil
}

// counter counts the events that are written.
type counter struct {
	events.EventSink
	written atomic.Int64
}

func (c *counter) Create(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	created, err := c.EventSink.Create(ctx, e)
	if err == nil {
		c.written.Add(1)
	}
	return created, err
}
