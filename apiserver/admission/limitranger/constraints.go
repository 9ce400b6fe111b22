package limitranger

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// The constraints, worded as Kubernetes words them.

func minimum(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Min[name]
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !requested:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String())
	case request.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String())
	case limited && limit.Cmp(bound) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String())
	}
	return nil
}

func maximum(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.Max[name]
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, bound.String())
	case limit.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, item.Type, bound.String(), limit.String())
	case requested && request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String())
	}
	return nil
}

func maximumRequest(item *corev1.LimitRangeItem, name corev1.ResourceName, requests corev1.ResourceList) error {
	bound := item.Max[name]
	request, requested := requests[name]
	switch {
	case !requested:
		return fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, bound.String())
	case request.Cmp(bound) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, bound.String(), request.String())
	}
	return nil
}

func ratio(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) error {
	bound := item.MaxLimitRequestRatio[name]
	request, limit := requests[name], limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, bound.String())
	case limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, bound.String())
	}
	if observed := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); observed > bound.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, bound.String(), observed)
	}
	return nil
}
