package hooks

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// OnUse is a plugin that is there while objects are that it works by: it is made when the first of them appears and ended when the
// last has gone. A request in a cluster without any costs an atomic read, and such a cluster compiles nothing and runs nothing.
type OnUse struct {
	name    string
	make    maker
	ended   <-chan struct{}
	objects cache.Store
	synced  cache.DoneChecker

	mu   sync.Mutex // held while made changes
	made atomic.Pointer[made]
}

// maker makes a plugin, which ends with ctx.
type maker func(ctx context.Context) (waiter, error)

// waiter is a plugin that tells when it knows what it works by.
type waiter interface {
	admission.Interface
	WaitForReady() bool
}

// made is the plugin, or why there is none.
type made struct {
	plugin waiter
	err    error
	end    context.CancelFunc
}

var (
	_ admission.MutationInterface   = &OnUse{}
	_ admission.ValidationInterface = &OnUse{}
)

func newOnUse(name string, objects cache.SharedIndexInformer, ended <-chan struct{}, make maker) (*OnUse, error) {
	p := &OnUse{name: name, make: make, ended: ended, objects: objects.GetStore()}
	handle, err := objects.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.changed() },
		DeleteFunc: func(any) { p.changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("watch what admission plugin %s works by: %w", name, err)
	}
	p.synced = handle.HasSyncedChecker()
	return p, nil
}

// Synced is done once the plugin works by what there was when the server started. The plugin is made in the informer's handler, so it
// is ready by then; later on, requests do not wait for it, as they would not for the informer either.
func (p *OnUse) Synced() cache.DoneChecker { return p.synced }

// changed makes or ends the plugin.
func (p *OnUse) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	used, now := len(p.objects.ListKeys()) > 0, p.made.Load()
	switch {
	case used && now == nil:
		p.made.Store(p.begin())
	case !used && now != nil:
		p.made.Store(nil)
		now.end()
	}
}

func (p *OnUse) begin() *made {
	ctx, end := context.WithCancel(wait.ContextForChannel(p.ended))
	plugin, err := p.make(ctx)
	if err != nil {
		klog.ErrorS(err, "Admission plugin cannot be made: requests are refused", "plugin", p.name)
		return &made{err: err, end: end}
	}
	// Whoever asks it before it is ready waits; that it is not in time is told then.
	plugin.WaitForReady()
	return &made{plugin: plugin, end: end}
}

// Handles implements admission.Interface: which operations count is known to the plugin.
func (p *OnUse) Handles(admission.Operation) bool { return true }

// Admit is the plugin's, where there is one that changes objects.
func (p *OnUse) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, err := p.now(a)
	if m, ok := plugin.(admission.MutationInterface); ok {
		return m.Admit(ctx, a, o)
	}
	return err
}

// Validate is the plugin's, where there is one that checks objects.
func (p *OnUse) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, err := p.now(a)
	if v, ok := plugin.(admission.ValidationInterface); ok {
		return v.Validate(ctx, a, o)
	}
	return err
}

// now returns the plugin that a request is for, nil if there is none.
func (p *OnUse) now(a admission.Attributes) (admission.Interface, error) {
	m := p.made.Load()
	switch {
	case m == nil:
		return nil, nil
	case m.err != nil:
		return nil, admission.NewForbidden(a, fmt.Errorf("admission plugin %s cannot be made: %w", p.name, m.err))
	case !m.plugin.Handles(a.GetOperation()):
		return nil, nil
	}
	return m.plugin, nil
}
