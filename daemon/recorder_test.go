package daemon

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/peapod/peapod/apiserver/servertest"
)

// Events are recorded from the first on, however late it comes, and what records them is made for it and ended.
func TestEventsOfAController(t *testing.T) {
	server := servertest.Start(t, nil)
	client, err := kubernetes.NewForConfig(server.Transport.Config(&user.DefaultInfo{Name: "controller", Groups: []string{user.SystemPrivilegedGroup}}))
	if err != nil {
		t.Fatal(err)
	}
	r := newEventRecorder("some-controller", client.CoreV1())
	if r.broadcaster != nil {
		t.Error("there is a broadcaster before there is an event")
	}
	w, err := client.CoreV1().Events("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	about := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "about", UID: "1"}}
	r.Event(about, v1.EventTypeNormal, "First", "100 % done")
	r.Eventf(about, v1.EventTypeWarning, "Second", "%d of %d", 1, 2)
	r.AnnotatedEventf(about, map[string]string{"why": "test"}, v1.EventTypeNormal, "Third", "%s", "three")
	want := map[string]string{"First": "100 % done", "Second": "1 of 2", "Third": "three"}
	late := time.After(time.Minute)
	for len(want) > 0 {
		select {
		case e := <-w.ResultChan():
			event, ok := e.Object.(*v1.Event)
			if !ok {
				t.Fatalf("the watch of events ended with %v", e.Object)
			}
			if message, known := want[event.Reason]; !known || message != event.Message || event.Source.Component != "some-controller" || event.InvolvedObject.Name != "about" {
				t.Errorf("unexpected event %+v", event)
			}
			if event.Reason == "Third" && event.Annotations["why"] != "test" {
				t.Errorf("event has annotations %v", event.Annotations)
			}
			delete(want, event.Reason)
		case <-late:
			t.Fatalf("no events %v in time", want)
		}
	}
	r.Shutdown()
	r.Event(about, v1.EventTypeNormal, "Fourth", "too late") // must not panic

	unused := newEventRecorder("some-controller", client.CoreV1())
	unused.Shutdown()
	unused.Event(about, v1.EventTypeNormal, "Fifth", "too late")
	if unused.broadcaster != nil {
		t.Error("a broadcaster was made after the end")
	}
}
