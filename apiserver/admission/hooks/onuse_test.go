package hooks

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// errAsked is what the plugin answers to whatever it is asked.
var errAsked = errors.New("asked")

// plugin is asked about creations.
type plugin struct{ waited bool }

func (p *plugin) Handles(o admission.Operation) bool { return o == admission.Create }
func (p *plugin) WaitForReady() bool                 { p.waited = true; return true }
func (p *plugin) Validate(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	return errAsked
}

func request(o admission.Operation) admission.Attributes {
	return admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "ns", "n", schema.GroupVersionResource{Resource: "pods"}, "", o, nil, false, nil)
}

// A plugin is there, and asked about what it handles, from the first object that it works by to the last; each time a new one, and the
// one before has ended.
func TestOnUse(t *testing.T) {
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	ended := make(chan struct{})
	type begun struct {
		ctx    context.Context
		plugin *plugin
	}
	plugins := make(chan begun, 1)
	var failure error
	p, err := newOnUse("Test", factory.Admissionregistration().V1().ValidatingWebhookConfigurations().Informer(), ended, func(ctx context.Context) (waiter, error) {
		b := begun{ctx, &plugin{}}
		plugins <- b
		return b.plugin, failure
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.StartWithContext(ctx)
	if !cache.WaitFor(t.Context(), "", p.Synced()) {
		t.Fatal("the informer does not sync")
	}
	if err := p.Validate(t.Context(), request(admission.Create), nil); err != nil {
		t.Errorf("without objects: %v", err)
	}
	objects := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	create := func(name string) {
		t.Helper()
		if _, err := objects.Create(t.Context(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := objects.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	next := func() begun {
		t.Helper()
		select {
		case b := <-plugins:
			p.mu.Lock() // until it is stored
			defer p.mu.Unlock()
			return b
		case <-time.After(time.Minute):
			t.Fatal("no plugin is made")
			panic("unreachable")
		}
	}
	var last begun
	for range 2 {
		create("a")
		now := next()
		if now.plugin == last.plugin || !now.plugin.waited {
			t.Error("the plugin is an old one, or was not waited for")
		}
		if err := p.Validate(t.Context(), request(admission.Create), nil); !errors.Is(err, errAsked) {
			t.Errorf("of a creation: %v", err)
		}
		if err := p.Validate(t.Context(), request(admission.Delete), nil); err != nil {
			t.Errorf("of what the plugin does not handle: %v", err)
		}
		if err := p.Admit(t.Context(), request(admission.Create), nil); err != nil {
			t.Errorf("of a change, by a plugin that changes nothing: %v", err)
		}
		create("b")
		remove("a")
		if now.ctx.Err() != nil {
			t.Error("the plugin ended with the first object")
		}
		remove("b")
		select {
		case <-now.ctx.Done():
		case <-time.After(time.Minute):
			t.Fatal("the plugin does not end with the last object")
		}
		if err := p.Validate(t.Context(), request(admission.Create), nil); err != nil {
			t.Errorf("after the last object: %v", err)
		}
		last = now
	}

	failure = errors.New("broken")
	create("c")
	broken := next()
	err = p.Validate(t.Context(), request(admission.Create), nil)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "admission plugin Test cannot be made: broken") {
		t.Errorf("without the plugin: %v", err)
	}
	// Whatever it began ends with the server.
	close(ended)
	select {
	case <-broken.ctx.Done():
	case <-time.After(time.Minute):
		t.Error("the plugin does not end with the server")
	}
}
