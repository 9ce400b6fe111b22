// Package horizontalpodautoscaler declares autoscaling/v2 HorizontalPodAutoscaler, in which the objects are stored, and
// autoscaling/v1, the same objects in the words of the first version: what that has no field for are annotations there.
package horizontalpodautoscaler

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
)

const (
	kindName = "HorizontalPodAutoscaler"
	plural   = "horizontalpodautoscalers"
)

// Declaration returns the declaration of the kind in version 2.
func Declaration() *resource.Declaration {
	return resource.Declare[autoscalingv2.HorizontalPodAutoscaler](resource.Declaration{
		GVK:        autoscalingv2.SchemeGroupVersion.WithKind(kindName),
		Plural:     plural,
		ShortNames: []string{"hpa"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} }, kind{})
}

// DeclarationV1 returns the declaration of the kind in version 1; stored is that of version 2.
func DeclarationV1(stored *resource.Declaration) *resource.Declaration {
	return resource.Declare[autoscalingv1.HorizontalPodAutoscaler](resource.Declaration{
		GVK:        autoscalingv1.SchemeGroupVersion.WithKind(kindName),
		Plural:     plural,
		ShortNames: []string{"hpa"},
		Categories: []string{"all"},
		Namespaced: true,
		AliasOf:    stored,
		Convert:    register,
	}, func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} }, kindV1{})
}

type kind struct{}

type kindV1 struct{}

var (
	_ resource.Defaulter[*autoscalingv2.HorizontalPodAutoscaler]       = kind{}
	_ resource.CreatePreparer[*autoscalingv2.HorizontalPodAutoscaler]  = kind{}
	_ resource.UpdatePreparer[*autoscalingv2.HorizontalPodAutoscaler]  = kind{}
	_ resource.StatusPreparer[*autoscalingv2.HorizontalPodAutoscaler]  = kind{}
	_ resource.Validator[*autoscalingv2.HorizontalPodAutoscaler]       = kind{}
	_ resource.UpdateValidator[*autoscalingv2.HorizontalPodAutoscaler] = kind{}
	_ resource.StatusValidator[*autoscalingv2.HorizontalPodAutoscaler] = kind{}
	_ resource.Printer[*autoscalingv2.HorizontalPodAutoscaler]         = kind{}
	_ resource.Defaulter[*autoscalingv1.HorizontalPodAutoscaler]       = kindV1{}
)

// PrepareForCreate drops the annotations that stand for fields in version 1: they have been read, or mean nothing.
func (kind) PrepareForCreate(_ context.Context, obj *autoscalingv2.HorizontalPodAutoscaler) {
	obj.Annotations = withoutFields(obj.Annotations)
}

// PrepareForUpdate drops them too.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *autoscalingv2.HorizontalPodAutoscaler) {
	obj.Annotations = withoutFields(obj.Annotations)
}

// PrepareForStatusUpdate drops them too.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, _ *autoscalingv2.HorizontalPodAutoscaler) {
	obj.Annotations = withoutFields(obj.Annotations)
}
