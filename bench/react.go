package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	// kept is how many Pods the Deployment has whose Pods are deleted, one after the other.
	kept = 5
	// reactBudget is within what a lost Pod is to be replaced and a Pod to be placed that a label lets in, in milliseconds.
	reactBudget = 100
	// wantedLabel is what a Pod waits for a node to have.
	wantedLabel = "gpu"
)

// measureReact measures how fast the cluster answers to a change: a Pod of a Deployment that is deleted, and a label of a node for
// which a Pod waits.
func measureReact(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		for _, step := range []func(context.Context, kubernetes.Interface) ([]figure, error){c.replacements, c.labelled} {
			got, err := step(ctx, client)
			if err != nil {
				return err
			}
			figures = append(figures, got...)
		}
		return nil
	})
	return figures, err
}

// replacements measures from the call that deletes a Pod of a Deployment to the event of the Pod that takes its place, and to the
// event that says that this one runs. The deleted one has its grace meanwhile.
func (c *cluster) replacements(ctx context.Context, client kubernetes.Interface) ([]figure, error) {
	made, err := client.AppsV1().Deployments(metav1.NamespaceDefault).Create(ctx, deployment("kept", kept), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create Deployment: %w", err)
	}
	var there, running []time.Duration
	for range singles {
		// The one before has settled, so that what is measured is of one Pod.
		if err := c.awaitRollout(ctx, client, made); err != nil {
			return nil, err
		}
		exists, runs, err := c.replace(ctx, client)
		if err != nil {
			return nil, err
		}
		there, running = append(there, exists), append(running, runs)
	}
	err = client.AppsV1().Deployments(metav1.NamespaceDefault).Delete(ctx, made.Name, metav1.DeleteOptions{})
	return []figure{
		milliseconds("Pod of a Deployment deleted to its replacement there", reactBudget, there),
		milliseconds("the same to its replacement Running", 0, running),
	}, err
}

// replace deletes one of the Pods and returns after what time there was another, and after what it ran.
func (c *cluster) replace(ctx context.Context, client kubernetes.Interface) (exists, runs time.Duration, err error) {
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	before, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=kept"})
	if err != nil {
		return 0, 0, fmt.Errorf("list Pods: %w", err)
	}
	known, victim := map[types.UID]bool{}, ""
	for _, p := range before.Items {
		known[p.UID] = true
		if p.DeletionTimestamp == nil {
			victim = p.Name
		}
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=kept", ResourceVersion: before.ResourceVersion})
	if err != nil {
		return 0, 0, fmt.Errorf("watch Pods: %w", err)
	}
	began := time.Now()
	if err := pods.Delete(ctx, victim, metav1.DeleteOptions{}); err != nil {
		w.Stop()
		return 0, 0, fmt.Errorf("delete Pod: %w", err)
	}
	err = c.follow(ctx, w, "a Pod in the place of "+victim, func(e watch.Event) (bool, error) {
		p, ok := e.Object.(*corev1.Pod)
		if !ok || known[p.UID] {
			return false, nil
		}
		if exists == 0 {
			exists = time.Since(began)
		}
		runs = time.Since(began)
		return p.Status.Phase == corev1.PodRunning, nil
	})
	return exists, runs, err
}

// labelled measures from the call that gives the node the label for which a Pod waits to the event that says that the Pod has the node.
func (c *cluster) labelled(ctx context.Context, client kubernetes.Interface) ([]figure, error) {
	var placed []time.Duration
	for i := range singles {
		took, err := c.letIn(ctx, client, fmt.Sprintf("waits-%d", i))
		if err != nil {
			return nil, err
		}
		placed = append(placed, took)
	}
	return []figure{milliseconds("label of a node to the Pod that waits for it placed", reactBudget, placed)}, nil
}

// letIn creates a Pod, waits until the scheduler has said that it fits nowhere, and returns after what time the label brought it to the
// node. The label goes again.
func (c *cluster) letIn(ctx context.Context, client kubernetes.Interface, name string) (took time.Duration, err error) {
	p := pod(name)
	p.Spec.NodeSelector = map[string]string{wantedLabel: "true"}
	await := func(what string, done func(*corev1.Pod) bool, cause func() error) error {
		w, err := client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			return fmt.Errorf("watch Pod: %w", err)
		}
		if err := cause(); err != nil {
			w.Stop()
			return err
		}
		return c.follow(ctx, w, what, func(e watch.Event) (bool, error) {
			p, ok := e.Object.(*corev1.Pod)
			return ok && done(p), nil
		})
	}
	err = await("the Pod to be created and found unschedulable", unschedulable, func() error {
		_, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return 0, err
	}
	var began time.Time
	err = await("the Pod's node", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }, func() error {
		began = time.Now()
		return c.label(ctx, client, `"true"`)
	})
	if err != nil {
		return 0, err
	}
	took = time.Since(began)
	if err := c.label(ctx, client, "null"); err != nil {
		return 0, err
	}
	return took, client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{})
}

// unschedulable says whether the scheduler has found no node for the Pod.
func unschedulable(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Reason == corev1.PodReasonUnschedulable
		}
	}
	return false
}

// label sets the label that Pods wait for to a value in JSON on the cluster's only node.
func (c *cluster) label(ctx context.Context, client kubernetes.Interface, value string) error {
	body := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, wantedLabel, value)
	if _, err := client.CoreV1().Nodes().Patch(ctx, "bench", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label the node: %w", err)
	}
	return nil
}
