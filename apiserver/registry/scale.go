package registry

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
)

// scaleREST serves the scale subresource: a view of an object as a Scale, through which its replicas change. An object's
// managers of .spec.replicas are the Scale's, and the other way round.
type scaleREST struct {
	store *genericregistry.Store
	d     *resource.Declaration
}

var (
	_ rest.Patcher                  = (*scaleREST)(nil)
	_ rest.GroupVersionKindProvider = (*scaleREST)(nil)
	_ rest.TableConvertor           = (*scaleREST)(nil)
	_ rest.Scoper                   = (*scaleREST)(nil)
)

func (r *scaleREST) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the store is the main resource's.
func (r *scaleREST) Destroy() {}

func (r *scaleREST) NamespaceScoped() bool { return r.d.Namespaced }

// GroupVersionKind says what the subresource takes, which is not its parent's kind.
func (r *scaleREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (r *scaleREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, o)
	if err != nil {
		return nil, err
	}
	return r.served(obj)
}

func (r *scaleREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := r.store.Update(ctx, name, &scaleUpdate{UpdatedObjectInfo: info, r: r, name: name},
		func(ctx context.Context, obj runtime.Object) error {
			scale, err := r.served(obj)
			if err != nil {
				return err
			}
			return create(ctx, scale)
		},
		func(ctx context.Context, obj, old runtime.Object) error {
			scale, err := r.served(obj)
			if err != nil {
				return err
			}
			was, err := r.served(old)
			if err != nil {
				return err
			}
			return update(ctx, scale, was)
		}, false, o)
	if err != nil {
		return nil, false, err
	}
	scale, err := r.served(obj)
	return scale, false, err
}

// served is the Scale of obj, or the API's error where it has none.
func (r *scaleREST) served(obj runtime.Object) (runtime.Object, error) {
	scale, err := r.scale(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return scale, nil
}

func (r *scaleREST) scale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	o, ok := obj.(resource.Object)
	if !ok {
		return nil, fmt.Errorf("read the scale of a %T: not a %s", obj, r.d.GVK.Kind)
	}
	spec, status, selector, err := r.d.Behaviour.Scale(obj)
	if err != nil {
		return nil, err
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
			ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: spec},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}, nil
}

// scaleUpdate makes of the change to a Scale, which the embedded info holds, the change to its object.
type scaleUpdate struct {
	rest.UpdatedObjectInfo
	r    *scaleREST
	name string
}

// UpdatedObject returns a copy of old with the replicas, the resource version and the managers of the changed Scale.
func (u *scaleUpdate) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	d := u.r.d
	path := schema.GroupResource{Group: d.GVK.Group, Resource: d.Plural + "/scale"}
	obj := old.DeepCopyObject().(resource.Object)
	if obj.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(path, u.name)
	}
	gv := d.GVK.GroupVersion()
	managers := managedfields.NewScaleHandler(obj.GetManagedFields(), gv,
		managedfields.ResourcePathMappings{gv.String(): fieldpath.MakePathOrDie("spec", "replicas")})
	before, err := u.r.scale(obj)
	if err != nil {
		return nil, err
	}
	if before.ManagedFields, err = managers.ToSubresource(); err != nil {
		return nil, fmt.Errorf("read the managers of %s %s: %w", d.Singular, u.name, err)
	}
	updated, err := u.UpdatedObjectInfo.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	if errs := validateScale(scale, d.Namespaced); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), u.name, errs)
	}
	if scale.UID != "" && scale.UID != obj.GetUID() {
		return nil, apierrors.NewConflict(path, u.name, unmet("UID", scale.UID, obj.GetUID()))
	}
	d.Behaviour.SetReplicas(obj, scale.Spec.Replicas)
	obj.SetResourceVersion(scale.ResourceVersion)
	entries, err := managers.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, fmt.Errorf("record the managers of %s %s: %w", d.Singular, u.name, err)
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

func validateScale(scale *autoscalingv1.Scale, namespaced bool) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&scale.ObjectMeta, namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, apivalidation.ValidateNonnegativeField(int64(scale.Spec.Replicas), field.NewPath("spec", "replicas"))...)
}

// ConvertToTable prints Scales.
func (r *scaleREST) ConvertToTable(ctx context.Context, obj, o runtime.Object) (*metav1.Table, error) {
	return newScaleTable().ConvertToTable(ctx, obj, o)
}

// newScaleTable is how `kubectl get deployments/NAME --subresource=scale` shows a Scale.
func newScaleTable() table {
	return table{
		d: &resource.Declaration{
			GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
			Behaviour: resource.Behaviour{Row: func(obj runtime.Object) ([]any, error) {
				scale, ok := obj.(*autoscalingv1.Scale)
				if !ok {
					return nil, fmt.Errorf("unexpected type %T", obj)
				}
				return []any{scale.Name, int64(scale.Spec.Replicas), int64(scale.Status.Replicas), scale.CreationTimestamp}, nil
			}},
		},
		columns: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
			{Name: "Desired", Type: "integer", Description: autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]},
			{Name: "Available", Type: "integer", Description: autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]},
			{Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
		},
	}
}
