// Package controltest runs controllers on a real API server, for tests. There is no node: tests play the kubelet by writing
// the status of Pods.
package controltest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
)

// Namespace is where tests put their objects.
const Namespace = "default"

// patience ends a wait for what is not going to happen.
const patience = 2 * time.Minute

// World is a running API server with controllers.
type World struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory

	changed chan struct{}
}

// New is a controller's constructor.
type New func(engine.Deps) (engine.Runner, error)

// Start runs the controllers on a server of their own until the test ends.
func Start(t *testing.T, news ...New) *World {
	t.Helper()
	return StartOn(t, servertest.Start(t, nil), news...)
}

// StartOn runs the controllers on a server until the test ends.
func StartOn(t *testing.T, server *servertest.Server, news ...New) *World {
	t.Helper()
	config := server.Transport.Config(&user.DefaultInfo{Name: "controllers", Groups: []string{user.SystemPrivilegedGroup}})
	client, err := inprocess.NewClientset(config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := inprocess.NewMetadata(config)
	if err != nil {
		t.Fatal(err)
	}
	extensions, err := inprocess.NewExtensions(config)
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Client: client, Informers: informers.NewSharedInformerFactory(client, 0), changed: make(chan struct{}, 1)}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	deps := engine.Deps{
		Client: client, Metadata: meta, Extensions: extensions, Config: config, Informers: w.Informers,
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		w.Informers.Shutdown()
		broadcaster.Shutdown()
	})
	for _, n := range news {
		run, err := n(deps)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := run.Run(ctx); err != nil {
				t.Errorf("controller ended with: %v", err)
			}
		})
	}
	w.Informers.StartWithContext(ctx)
	return w
}

// Watch makes Await look again at each event of the informer.
func (w *World) Watch(t *testing.T, informer cache.SharedIndexInformer) {
	t.Helper()
	if _, err := informer.AddEventHandler(engine.OnAny(func(any) { w.signal() })); err != nil {
		t.Fatal(err)
	}
	w.Informers.StartWithContext(t.Context())
}

func (w *World) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Await waits until ok says true, which it asks at each event of what is watched.
func (w *World) Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-w.changed:
		case <-end.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// Pods lists the Pods that match the selector and are not being deleted, by age.
func (w *World) Pods(t *testing.T, selector string) []corev1.Pod {
	t.Helper()
	list, err := w.Client.CoreV1().Pods(Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	var out []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// Ready says whether the Pod is ready.
func Ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// SetPhase writes the Pod's phase; one that runs is ready since a minute.
func (w *World) SetPhase(t *testing.T, p *corev1.Pod, phase corev1.PodPhase) {
	t.Helper()
	p = p.DeepCopy()
	p.Status.Phase = phase
	ready := corev1.ConditionFalse
	if phase == corev1.PodRunning {
		ready = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Minute))}}
	if _, err := w.Client.CoreV1().Pods(p.Namespace).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("write status of pod %s: %v", p.Name, err)
	}
}

// Kubelet makes every Pod that matches ready as soon as it is seen, and lets Pods that are being deleted go, until the
// test ends.
func (w *World) Kubelet(t *testing.T, selector string) {
	t.Helper()
	s, err := labels.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	play := func(obj any) {
		p, ok := obj.(*corev1.Pod)
		if !ok || !s.Matches(labels.Set(p.Labels)) {
			return
		}
		ctx := context.Background()
		switch {
		case p.DeletionTimestamp != nil:
			_ = w.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
				GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(p.UID))}) // may be gone
		case p.Status.Phase == corev1.PodPending:
			p = p.DeepCopy()
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Minute))}}
			_, _ = w.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}) // conflicts come again
		}
	}
	if _, err := w.Informers.Core().V1().Pods().Informer().AddEventHandler(engine.OnSet(play)); err != nil {
		t.Fatal(err)
	}
}

// DeletePod deletes a Pod at once, as one that no kubelet holds.
func (w *World) DeletePod(t *testing.T, name string) {
	t.Helper()
	if err := w.Client.CoreV1().Pods(Namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
}

// Event waits for an event of a reason about an object, whose message has text in it, and returns the message.
func (w *World) Event(t *testing.T, object, reason, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	selector := fields.Set{"involvedObject.name": object, "reason": reason}.String()
	events, err := w.Client.CoreV1().Events(Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	var seen []string
	for e := range events.ResultChan() {
		if ev, ok := e.Object.(*corev1.Event); ok {
			if strings.Contains(ev.Message, text) {
				return ev.Message
			}
			seen = append(seen, ev.Message)
		}
	}
	t.Fatalf("no event %s about %s with %q in it in time; there were %q", reason, object, text, seen)
	return ""
}

// Template is a Pod template with labels.
func Template(l map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: l},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers:                    []corev1.Container{{Name: "main", Image: "hello"}},
		},
	}
}
