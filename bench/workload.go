package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// deployment is a Deployment of such Pods as pod makes, with the default strategy.
func deployment(name string, replicas int) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(replicas)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
		},
	}
}

// measureWorkload measures a Deployment: from the call that creates it to the event that says that all its Pods are ready,
// and from the call that changes its template to the event that says that all of them are of the new one. A node has room
// for 110 Pods, so that not all of the default surge of a quarter fits.
func measureWorkload(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		deployments := client.AppsV1().Deployments(metav1.NamespaceDefault)
		d := deployment("many", s.pods)
		for _, step := range []struct {
			name string
			call func() (*appsv1.Deployment, error)
		}{
			{fmt.Sprintf("Deployment of %d, all ready", s.pods), func() (*appsv1.Deployment, error) {
				return deployments.Create(ctx, d, metav1.CreateOptions{})
			}},
			{fmt.Sprintf("rolling update of %d", s.pods), func() (*appsv1.Deployment, error) {
				body := []byte(`{"spec":{"template":{"metadata":{"annotations":{"round":"2"}}}}}`)
				return deployments.Patch(ctx, d.Name, types.MergePatchType, body, metav1.PatchOptions{})
			}},
		} {
			var took time.Duration
			cpu, err := c.spent(func() error {
				began := time.Now()
				made, err := step.call()
				if err != nil {
					return fmt.Errorf("%s: %w", step.name, err)
				}
				err = c.awaitRollout(ctx, client, made)
				took = time.Since(began)
				return err
			})
			if err != nil {
				return err
			}
			figures = append(figures,
				single(step.name, "s", 0, took.Seconds()),
				single("CPU of that, a Pod", "ms", 0, float64(cpu)/float64(time.Millisecond)/float64(s.pods)))
		}
		return nil
	})
	return figures, err
}

// awaitRollout waits until all Pods of the Deployment are of d's generation, ready, and there are no others.
func (c *cluster) awaitRollout(ctx context.Context, client kubernetes.Interface, d *appsv1.Deployment) error {
	w, err := client.AppsV1().Deployments(d.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + d.Name})
	if err != nil {
		return fmt.Errorf("watch Deployments: %w", err)
	}
	return c.follow(ctx, w, "the rollout of "+d.Name, func(e watch.Event) (bool, error) {
		now, ok := e.Object.(*appsv1.Deployment)
		if !ok {
			return false, nil
		}
		want, is := *d.Spec.Replicas, now.Status
		return is.ObservedGeneration >= d.Generation && is.Replicas == want && is.UpdatedReplicas == want && is.ReadyReplicas == want, nil
	})
}
