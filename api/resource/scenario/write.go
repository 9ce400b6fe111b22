package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/api/resource"
)

// version is the resourceVersion of every stored object.
const version = "1"

// refusal is a write that the API would answer with errors.
type refusal struct{ messages []string }

func (r *refusal) Error() string { return strings.Join(r.messages, "; ") }

// writer takes objects the way from a client to the store, with the kind's behaviour at each step and no server.
type writer struct {
	d        *resource.Declaration
	ctx      context.Context
	env      resource.Env
	pools    *pools
	warnings []string
}

func newWriter(d *resource.Declaration, c *Case) (*writer, error) {
	via := c.Via
	if via == "" {
		via = d.GVK.GroupVersion().String()
	}
	gv, err := schema.ParseGroupVersion(via)
	if err != nil {
		return nil, err
	}
	families := []corev1.IPFamily{corev1.IPv4Protocol}
	if len(c.Families) > 0 {
		families = nil
		for _, f := range c.Families {
			families = append(families, corev1.IPFamily(f))
		}
	}
	w := &writer{d: d, pools: newPools(families)}
	w.ctx = request.WithRequestInfo(context.Background(), &request.RequestInfo{
		IsResourceRequest: true, APIGroup: gv.Group, APIVersion: gv.Version, Resource: d.Plural})
	w.env = resource.Env{ServiceIPs: w.pools, NodePorts: (*ports)(w.pools)}
	return w, nil
}

// decode reads an object strictly and defaults it.
func (w *writer) decode(fields map[string]any) (resource.Object, error) {
	text, err := yaml.Marshal(fields)
	if err != nil {
		return nil, err
	}
	obj := w.d.New().(resource.Object)
	if err := yaml.UnmarshalStrict(text, obj); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if w.d.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace("default")
	}
	if f := w.d.Behaviour.Default; f != nil {
		f(obj)
		once := obj.DeepCopyObject()
		f(obj)
		if !equality.Semantic.DeepEqual(once, obj) {
			return nil, errors.New("defaulting twice gives something else than defaulting once")
		}
	}
	return obj, nil
}

// store returns an object that is there already, whatever it is.
func (w *writer) store(fields map[string]any) (resource.Object, error) {
	obj, err := w.decode(fields)
	if err != nil {
		return nil, err
	}
	if f := w.d.Behaviour.Restore; f != nil {
		return obj, f(w.env, obj)
	}
	return obj, nil
}

func (w *writer) create(fields map[string]any) (resource.Object, error) {
	obj, err := w.decode(fields)
	if err != nil {
		return nil, err
	}
	b := &w.d.Behaviour
	settle := func(bool) {}
	if b.BeginCreateAllocation != nil {
		if err := w.dry(obj); err != nil {
			return nil, err
		}
		if settle, err = b.BeginCreateAllocation(w.ctx, w.env, obj, false); err != nil {
			return nil, refused(err)
		}
	}
	w.d.PrepareCreate(w.ctx, obj)
	return w.end(obj, nil, w.d.CheckCreate(w.ctx, obj), settle)
}

// dry makes sure that a dry run reserves nothing.
func (w *writer) dry(obj resource.Object) error {
	held := maps.Clone(w.pools.taken)
	settle, err := w.d.Behaviour.BeginCreateAllocation(w.ctx, w.env, obj.DeepCopyObject(), true)
	if err == nil && !maps.Equal(held, w.pools.taken) {
		return fmt.Errorf("a dry run has reserved something: %v became %v", held, w.pools.taken)
	}
	if settle != nil {
		settle(true)
	}
	if !maps.Equal(held, w.pools.taken) {
		return fmt.Errorf("a dry run has changed what is allocated: %v became %v", held, w.pools.taken)
	}
	return nil // The write itself meets the same error.
}

func (w *writer) update(fields map[string]any, old resource.Object) (resource.Object, error) {
	obj, err := w.decode(fields)
	if err != nil {
		return nil, err
	}
	old.SetResourceVersion(version)
	obj.SetResourceVersion(version)
	before := old.DeepCopyObject().(resource.Object)
	b := &w.d.Behaviour
	settle := func(bool) {}
	if b.BeginUpdateAllocation != nil {
		if settle, err = b.BeginUpdateAllocation(w.ctx, w.env, obj, old, false); err != nil {
			return nil, refused(err)
		}
	}
	obj.SetGeneration(old.GetGeneration())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	w.d.PrepareUpdate(w.ctx, obj, old)
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
	errs = append(errs, w.d.CheckUpdate(w.ctx, obj, old)...)
	if !equality.Semantic.DeepEqual(before, old) {
		return nil, errors.New("the update has changed the old object")
	}
	return w.end(obj, old, errs, settle)
}

func (w *writer) updateStatus(fields map[string]any, old resource.Object) (resource.Object, error) {
	obj, err := w.decode(fields)
	if err != nil {
		return nil, err
	}
	if _, ok := fields["metadata"]; !ok {
		part(obj, "ObjectMeta").Set(part(old.DeepCopyObject(), "ObjectMeta"))
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	w.d.PrepareStatusUpdate(w.ctx, obj, old)
	return w.end(obj, nil, w.d.CheckStatusUpdate(w.ctx, obj, old), func(bool) {})
}

// end settles a write and checks that the pools hold what the object has and nothing else.
func (w *writer) end(obj, old resource.Object, errs field.ErrorList, settle func(bool)) (resource.Object, error) {
	settle(len(errs) == 0)
	if len(errs) > 0 {
		var messages []string
		for _, err := range errs {
			messages = append(messages, err.Error())
		}
		slices.Sort(messages)
		return nil, &refusal{messages}
	}
	w.warnings = nil
	if f := w.d.Behaviour.Warnings; f != nil {
		var before runtime.Object
		if old != nil {
			before = old
		}
		w.warnings = f(w.ctx, obj, before)
	}
	if w.d.Behaviour.BeginCreateAllocation != nil {
		return obj, w.pools.check(w.d, w.env, obj)
	}
	return obj, nil
}

// print returns the cells of a row by the names of their columns, those for -o wide among them.
func (w *writer) print(fields map[string]any) (map[string]any, error) {
	obj, err := w.decode(fields)
	if err != nil {
		return nil, err
	}
	cells, err := w.d.Behaviour.Row(obj)
	if err != nil {
		return nil, err
	}
	columns := w.d.Behaviour.Columns()
	if len(cells) != len(columns) {
		return nil, fmt.Errorf("%d cells for %d columns", len(cells), len(columns))
	}
	row := map[string]any{}
	for i, c := range columns {
		if c.Description == "" {
			return nil, fmt.Errorf("column %s has no description", c.Name)
		}
		name := c.Name
		if c.Priority > 0 {
			name += " (wide)"
		}
		row[name] = cells[i]
	}
	return plain(map[string]any{"row": row})
}

// refused takes an API error to pieces.
func refused(err error) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Details == nil || len(status.ErrStatus.Details.Causes) == 0 {
		return &refusal{[]string{err.Error()}}
	}
	var messages []string
	for _, c := range status.ErrStatus.Details.Causes {
		messages = append(messages, c.Field+": "+c.Message)
	}
	slices.Sort(messages)
	return &refusal{messages}
}

func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}
