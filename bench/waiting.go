package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// calm is how long the scheduler is left alone once it has turned all Pods away: longer than it waits at first before it looks at a
// Pod again, and than the last of the events take.
const calm = 3 * time.Second

// bindWaiting measures the server's scheduler where all Pods wait for it. What they wait for is one Pod that wants none of them on any
// hollow node; the time is from its deletion until all have a node. Events follow the bindings; how many of them had been written
// when the last Pod was bound is a figure of its own.
func (h *hollow) bindWaiting(ctx context.Context, nodes, pods int) ([]figure, error) {
	step := fmt.Sprintf("step-%d", nodes)
	guard, err := h.keepOut(ctx, step)
	if err != nil {
		return nil, err
	}
	first := h.pods
	h.pods += pods
	if err := h.makeWaiting(ctx, step, first, pods); err != nil {
		return nil, err
	}
	var took time.Duration
	written := 0
	cpu, err := h.c.spent(func() error {
		began := time.Now()
		if err := h.pod().Delete(ctx, guard, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			return fmt.Errorf("let Pods in: %w", err)
		}
		if err := h.awaitBound(ctx, step, fmt.Sprintf("pod-%d", h.pods-1)); err != nil {
			return err
		}
		took = time.Since(began)
		return nil
	})
	if err == nil {
		written, err = h.scheduled(ctx, first)
	}
	rate := single(fmt.Sprintf("waiting Pods bound, %d nodes", nodes), "1/s", 0, float64(pods)/took.Seconds())
	rate.moreBetter = true
	return []figure{
		rate,
		single("server's CPU for each", "us", 0, micros(cpu)/float64(pods)),
		single("events of them written by then", "%", 0, 100*float64(written)/float64(pods)),
	}, errors.Join(err, letPass(ctx, calm))
}

func (h *hollow) pod() typedcorev1.PodInterface {
	return h.clients[0].CoreV1().Pods(metav1.NamespaceDefault)
}

// keepOut makes a Pod that runs on a hollow node and wants no Pod of the step on any, and returns its name.
func (h *hollow) keepOut(ctx context.Context, step string) (string, error) {
	p := hollowPod(0)
	p.Name = "guard-" + step
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "hollow", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"step": step}}}}}}
	if _, err := h.pod().Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("keep Pods out: %w", err)
	}
	return p.Name, h.awaitBound(ctx, "", p.Name)
}

// makeWaiting makes Pods of the step and waits until the scheduler has turned each away and has nothing left to do.
func (h *hollow) makeWaiting(ctx context.Context, step string, first, pods int) error {
	w, err := h.pod().Watch(ctx, metav1.ListOptions{LabelSelector: labels.Set{"step": step}.String()})
	if err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	_, _, err = share(ctx, len(h.clients), pods, func(ctx context.Context, worker, i int) error {
		p := hollowPod(first + i)
		p.Labels["step"] = step
		_, err := h.clients[worker].CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		w.Stop()
		return fmt.Errorf("create waiting Pods: %w", err)
	}
	away := map[string]bool{}
	err = h.c.follow(ctx, w, "Pods to be turned away", func(e watch.Event) (bool, error) {
		if p, ok := e.Object.(*corev1.Pod); ok && unschedulable(p) {
			away[p.Name] = true
		}
		return len(away) == pods, nil
	})
	return errors.Join(err, letPass(ctx, calm))
}

// awaitBound waits until the named Pod has a node, and then all others of the step. It looks at one Pod at a time: what a watch of all
// of them costs would be part of the figure.
func (h *hollow) awaitBound(ctx context.Context, step, name string) error {
	for name != "" {
		w, err := h.pod().Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
		if err != nil {
			return fmt.Errorf("watch Pod %s: %w", name, err)
		}
		err = h.c.follow(ctx, w, "Pod "+name+" to be bound", func(e watch.Event) (bool, error) {
			p, ok := e.Object.(*corev1.Pod)
			return ok && p.Spec.NodeName != "", nil
		})
		if err != nil || step == "" {
			return err
		}
		rest, err := h.pod().List(ctx, metav1.ListOptions{
			LabelSelector: labels.Set{"step": step}.String(), FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "").String(), Limit: 1})
		if err != nil {
			return fmt.Errorf("list Pods without a node: %w", err)
		}
		name = ""
		if len(rest.Items) > 0 {
			name = rest.Items[0].Name
		}
	}
	return nil
}

// scheduled counts the Pods from number first on of whose binding there is an event.
func (h *hollow) scheduled(ctx context.Context, first int) (int, error) {
	list, err := h.clients[0].CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("reason", "Scheduled").String()})
	if err != nil {
		return 0, fmt.Errorf("list events: %w", err)
	}
	n := 0
	for _, e := range list.Items {
		var i int
		if _, err := fmt.Sscanf(e.InvolvedObject.Name, "pod-%d", &i); err == nil && i >= first {
			n++
		}
	}
	return n, nil
}
