package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"path"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// target is the scale subresource of what an autoscaler scales.
type target struct {
	resource schema.GroupVersionResource
	scale    *autoscalingv1.Scale
}

// find reads the scale of what ref names, of a built-in kind or another. A kind that is not known may be new.
func (c *controller) find(ctx context.Context, namespace string, ref *autoscalingv2.CrossVersionObjectReference) (*target, error) {
	gk, err := groupKind(ref)
	if err != nil {
		return nil, err
	}
	mappings, err := c.mapper.RESTMappings(gk)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		mappings, err = c.mapper.RESTMappings(gk)
	}
	if err != nil {
		return nil, err
	}
	first := errors.New("unrecognized resource")
	for i, m := range mappings {
		t := &target{resource: m.Resource, scale: &autoscalingv1.Scale{}}
		if err = c.request(c.client.AutoscalingV1().RESTClient().Get(), t.resource, namespace, ref.Name).Do(ctx).Into(t.scale); err == nil {
			return t, nil
		}
		if i == 0 {
			first = err
		}
	}
	if apierrors.IsNotFound(first) {
		// The definition that served it may have gone, and come again in another version.
		c.mapper.Reset()
	}
	return nil, first
}

// request leads to a scale subresource.
func (c *controller) request(r *rest.Request, gvr schema.GroupVersionResource, namespace, name string) *rest.Request {
	root := "/apis"
	if gvr.Group == "" {
		root = "/api"
	}
	return r.AbsPath(path.Join(root, gvr.Group, gvr.Version)).Namespace(namespace).Resource(gvr.Resource).Name(name).SubResource("scale")
}

// resize has the target be of n replicas, whoever else writes it at the same time.
func (c *controller) resize(ctx context.Context, t *target, n int32) error {
	client := c.client.AutoscalingV1().RESTClient()
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		t.scale.Spec.Replicas = n
		err := c.request(client.Put(), t.resource, t.scale.Namespace, t.scale.Name).Body(t.scale).Do(ctx).Error()
		if !apierrors.IsConflict(err) {
			return err
		}
		latest := &autoscalingv1.Scale{}
		if again := c.request(client.Get(), t.resource, t.scale.Namespace, t.scale.Name).Do(ctx).Into(latest); again != nil {
			return fmt.Errorf("read the scale after a conflict: %w", again)
		}
		t.scale = latest
		return err
	})
}
