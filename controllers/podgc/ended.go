package podgc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// tooMany is the key under which Pods that have ended are counted. No Pod has it: Pods have namespaces.
var tooMany = cache.ObjectName{Name: "ended"}

// byEnd is the index of the Pods that have ended, all under the same key.
const byEnd = "pod-garbage-collector/ended"

func endIndex(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok && ended(p) {
		return []string{byEnd}, nil
	}
	return nil, nil
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// thin deletes what there is too much of Pods that have ended: first those that were evicted, then the oldest.
func (c *collector) thin(ctx context.Context) error {
	list, err := c.index.ByIndex(byEnd, byEnd)
	if err != nil {
		return fmt.Errorf("list pods that have ended: %w", err)
	}
	surplus := len(list) - c.keep
	if surplus <= 0 {
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(list))
	for _, obj := range list {
		pods = append(pods, obj.(*corev1.Pod))
	}
	slices.SortFunc(pods, beforeOther)
	var errs []error
	for _, p := range pods[:surplus] {
		errs = append(errs, c.remove(ctx, p, nil))
	}
	return errors.Join(errs...)
}

// beforeOther is the order in which Pods that have ended go.
func beforeOther(a, b *corev1.Pod) int {
	evicted := func(p *corev1.Pod) int {
		if p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" {
			return 0
		}
		return 1
	}
	return cmp.Or(evicted(a)-evicted(b), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}
