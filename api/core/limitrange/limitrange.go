// Package limitrange declares core/v1 LimitRange.
package limitrange

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind. It prints its name and when it was created, like any kind that has
// no columns of its own.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.LimitRange](resource.Declaration{
		GVK:            corev1.SchemeGroupVersion.WithKind("LimitRange"),
		Plural:         "limitranges",
		ShortNames:     []string{"limits"},
		Namespaced:     true,
		CreateOnUpdate: true,
	}, func() runtime.Object { return &corev1.LimitRangeList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.LimitRange] = kind{}
	_ resource.Validator[*corev1.LimitRange] = kind{}
)

// Default derives what containers are given from what they may have: limits from the maximum, requests from the limits
// and, where there are none, from the minimum.
func (kind) Default(obj *corev1.LimitRange) {
	for i := range obj.Spec.Limits {
		item := &obj.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{
			item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio,
		} {
			quantity.RoundUp(list)
		}
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		item.Default = complete(item.Default, item.Max)
		item.DefaultRequest = complete(item.DefaultRequest, item.Default)
		item.DefaultRequest = complete(item.DefaultRequest, item.Min)
	}
}

// complete adds to list what it does not have of more. It never returns nil.
func complete(list, more corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, amount := range more {
		if _, ok := list[name]; !ok {
			list[name] = amount.DeepCopy()
		}
	}
	return list
}
