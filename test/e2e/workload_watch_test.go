package e2e

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// lens sees every state that the Pods with a label go through, one change after the other.
type lens struct {
	s    *space
	w    watch.Interface
	pods map[string]*corev1.Pod
}

// look starts with the Pods as they are now.
func (s *space) look(selector string) *lens {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods(s.name).List(s.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		s.t.Fatal(err)
	}
	w, err := s.client.CoreV1().Pods(s.name).Watch(within(s.t, longest), metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(w.Stop)
	l := &lens{s: s, w: w, pods: map[string]*corev1.Pod{}}
	for i := range list.Items {
		l.pods[list.Items[i].Name] = &list.Items[i]
	}
	return l
}

// until follows the changes until done says so, and calls each, if any, after every one of them.
func (l *lens) until(what string, done func() bool, each func()) {
	l.s.t.Helper()
	for !done() {
		e, ok := <-l.w.ResultChan()
		if !ok {
			l.s.t.Fatalf("the Pods do not come to be %s in time; they are %v", what, slices.Sorted(maps.Keys(l.pods)))
		}
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			l.s.t.Fatalf("watch Pods: %+v", e.Object)
		}
		if e.Type == watch.Deleted {
			delete(l.pods, p.Name)
		} else {
			l.pods[p.Name] = p
		}
		if each != nil {
			each()
		}
	}
}

// ready are the names of the Pods that are ready, in order.
func (l *lens) ready() []string {
	var out []string
	for name, p := range l.pods {
		if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// images are those of the Pods' first containers, in the order of the Pods' names.
func (l *lens) images() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(l.pods)) {
		out = append(out, l.pods[name].Spec.Containers[0].Image)
	}
	return out
}
