package aggregation

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/peapod/peapod/internal/keyqueue"
)

// automanaged marks APIServices that the server keeps itself: put right once as it starts, so that an administrator may change them
// afterwards, or always. What has no such mark, or another, is somebody else's.
const (
	automanaged = "kube-aggregator.kubernetes.io/automanaged"
	onStart     = "onstart"
	always      = "true"
)

// registrar keeps an APIService for each group version that this server answers itself.
type registrar struct {
	services *apiServices
	custom   Custom
	builtin  map[string]*apiregistrationv1.APIService
	// yielding are those of builtin that others may take over.
	yielding map[string]bool
	queue    keyqueue.Queue[string]

	mu sync.Mutex
	// defined are the APIServices of custom resources that there are to be.
	defined map[string]*apiregistrationv1.APIService
	// before are those that were there when the server started; settled those that have been right since.
	before, settled map[string]bool
	// lent are those of yielding that another server has, or had before the APIService went: there is to be one of this server's then.
	lent map[string]bool
	// missing counts those of builtin that are not settled; registered is closed when it is zero.
	missing    int
	registered chan struct{}
}

// startTogether is how many APIServices are made at once at the first start: they wait for the same write to disk.
const startTogether = 16

func newRegistrar(services *apiServices, c Config) (*registrar, error) {
	r := &registrar{
		services: services, custom: c.Custom, builtin: map[string]*apiregistrationv1.APIService{}, yielding: map[string]bool{},
		before: map[string]bool{}, settled: map[string]bool{}, lent: map[string]bool{}, registered: make(chan struct{}),
	}
	for _, gv := range c.Yielding {
		r.yielding[nameOf(gv)] = true
	}
	for _, gv := range c.Builtin {
		if gv.Group != Group {
			group, version := Priority(gv)
			s := localService(gv, onStart, group, version)
			r.builtin[s.Name] = s
		}
	}
	r.missing = len(r.builtin)
	if r.missing == 0 {
		close(r.registered)
	}
	r.queue = keyqueue.Queue[string]{Name: "local-api-services", Sync: r.sync}
	r.define(nil)
	return r, c.Custom.OnChange(r.define)
}

func nameOf(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

func localService(gv schema.GroupVersion, managed string, group, version int) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: nameOf(gv), Labels: map[string]string{automanaged: managed}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: int32(group), VersionPriority: int32(version),
		},
	}
}

// define takes in which custom resources there are, and looks at what came or went with them.
func (r *registrar) define(crds []*apiextensionsv1.CustomResourceDefinition) {
	next := map[string]*apiregistrationv1.APIService{}
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if v.Served {
				s := localService(schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}, always, customPriority, customVersion)
				next[s.Name] = s
			}
		}
	}
	r.mu.Lock()
	old := r.defined
	r.defined = next
	r.mu.Unlock()
	for name := range next {
		if old[name] == nil {
			r.queue.Add(name)
		}
	}
	for name := range old {
		if next[name] == nil {
			r.queue.Add(name)
		}
	}
}

// wanted returns the APIService that there is to be; nil: none.
func (r *registrar) wanted(name string) *apiregistrationv1.APIService {
	if s := r.builtin[name]; s != nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.defined[name]
}

// run keeps the APIServices until ctx ends. It begins when the custom resources are known: those of definitions that are still to come
// would be taken for left over.
func (r *registrar) run(ctx context.Context) {
	for _, known := range []<-chan struct{}{r.custom.Known(), r.services.informer.HasSyncedChecker().Done()} {
		select {
		case <-known:
		case <-ctx.Done():
			return
		}
	}
	r.define(r.custom.Established())
	names := map[string]bool{}
	r.mu.Lock()
	for _, s := range r.services.known() {
		r.before[s.Name], names[s.Name] = true, true
	}
	for name := range r.defined {
		names[name] = true
	}
	r.mu.Unlock()
	for name := range r.builtin {
		names[name] = true
	}
	var first errgroup.Group
	first.SetLimit(startTogether)
	for name := range names {
		first.Go(func() error {
			if r.sync(ctx, name) != nil {
				r.queue.Add(name) // which tells of it, and tries again
			}
			return nil
		})
	}
	_ = first.Wait()
	_ = r.queue.Run(ctx) // ends with ctx only
}

// sync makes, mends or removes an APIService of this server.
func (r *registrar) sync(ctx context.Context, name string) error {
	want, have := r.wanted(name), r.services.cached(name)
	if have != nil && have.Spec.Service != nil && r.yielding[name] {
		r.settle(name)
		return nil
	}
	r.mu.Lock()
	back := have == nil && r.lent[name]
	settled, before := r.settled[name] && !back, r.before[name]
	r.mu.Unlock()
	err := r.mend(ctx, want, have, settled, before)
	if err == nil && have != nil && have.Spec.Service == nil {
		err = r.available(ctx, have)
	}
	if overtaken(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep APIService %s: %w", name, err)
	}
	r.settle(name)
	return nil
}

func (r *registrar) mend(ctx context.Context, want, have *apiregistrationv1.APIService, settled, before bool) error {
	managed := ""
	if have != nil {
		managed = have.Labels[automanaged]
	}
	switch {
	case want == nil && have == nil:
		return nil
	case want != nil && want.Labels[automanaged] == onStart && settled:
		return nil // an administrator's doing
	case have == nil:
		_, err := r.services.Create(ctx, want, metav1.CreateOptions{})
		return err
	case managed != onStart && managed != always:
		return nil
	case managed == onStart && (settled || !before):
		return nil
	case want == nil:
		return r.services.Delete(ctx, have.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
	case equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return nil
	}
	next := have.DeepCopy()
	next.Spec = want.Spec
	_, err := r.services.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// available tells of what this server answers itself that it does. It was behind a Service before, or else it says so already.
func (r *registrar) available(ctx context.Context, have *apiregistrationv1.APIService) error {
	want := helper.NewLocalAvailableAPIServiceCondition()
	if c := helper.GetAPIServiceConditionByType(have, want.Type); c != nil && c.Status == want.Status && c.Reason == want.Reason {
		return nil
	}
	next := have.DeepCopy()
	helper.SetAPIServiceCondition(next, want)
	_, err := r.services.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	return err
}

// lend takes in whether an APIService, which may be gone, leads or led to another server.
func (r *registrar) lend(s *apiregistrationv1.APIService) {
	if !r.yielding[s.Name] {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent[s.Name] = s.Spec.Service != nil
}

// settle takes in that an APIService has been right once.
func (r *registrar) settle(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled[name] {
		return
	}
	r.settled[name] = true
	if r.builtin[name] == nil {
		return
	}
	if r.missing--; r.missing == 0 {
		close(r.registered)
	}
}
