package device

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/resource"
)

// AdminRequests refuses requests for administrators' access in a namespace that is not labelled for it.
func AdminRequests(ctx context.Context, env resource.Env, namespace string, list []resourcev1.DeviceRequest) field.ErrorList {
	for i, r := range list {
		if r.Exactly != nil && granted(r.Exactly.AdminAccess) {
			return labelled(ctx, env, namespace, field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess"))
		}
	}
	return nil
}

// AdminResults does the same for what is allocated now. What was allocated with such access before keeps it.
func AdminResults(ctx context.Context, env resource.Env, namespace string, is, was *resourcev1.AllocationResult) field.ErrorList {
	if admin(was) >= 0 {
		return nil
	}
	i := admin(is)
	if i < 0 {
		return nil
	}
	return labelled(ctx, env, namespace, field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess"))
}

// admin returns the first result with administrators' access, -1 if there is none.
func admin(a *resourcev1.AllocationResult) int {
	if a != nil {
		for i := range a.Devices.Results {
			if granted(a.Devices.Results[i].AdminAccess) {
				return i
			}
		}
	}
	return -1
}

func granted(access *bool) bool { return access != nil && *access }

func labelled(ctx context.Context, env resource.Env, name string, path *field.Path) field.ErrorList {
	namespaces := corev1.Resource("namespaces")
	obj, err := env.Store(namespaces).Get(request.WithNamespace(ctx, ""), name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(namespaces, name) // the store names the resource of the request
	}
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if obj.(*corev1.Namespace).Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	return field.ErrorList{field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace",
		resourcev1.DRAAdminNamespaceLabelKey))}
}
