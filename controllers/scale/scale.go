// Package scale reads and writes the sizes of objects of whatever kind has the scale subresource, built in or not.
package scale

import (
	"context"
	"errors"
	"fmt"
	"path"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/peapod/peapod/internal/kindmapper"
)

// Client finds sizes. It reads what the server serves when it is first asked, and again where that has changed.
type Client struct {
	// Mapper knows the kinds.
	Mapper kindmapper.Mapper
	client kubernetes.Interface
}

// New reads nothing yet.
func New(client kubernetes.Interface) *Client {
	return &Client{Mapper: kindmapper.New(client.Discovery()), client: client}
}

// Target is the scale subresource of an object.
type Target struct {
	Resource schema.GroupVersionResource
	Scale    *autoscalingv1.Scale
}

// Find reads the scale of an object. Of several versions of the kind the first counts that has one.
func (c *Client) Find(ctx context.Context, kind schema.GroupKind, namespace, name string) (*Target, error) {
	mappings, err := c.Mapper.RESTMappings(kind)
	if err != nil {
		return nil, err
	}
	first := errors.New("unrecognized resource")
	for i, m := range mappings {
		t := &Target{Resource: m.Resource, Scale: &autoscalingv1.Scale{}}
		if err = request(c.rest().Get(), t.Resource, namespace, name).Do(ctx).Into(t.Scale); err == nil {
			return t, nil
		}
		if i == 0 {
			first = err
		}
	}
	if apierrors.IsNotFound(first) {
		// The definition that served it may have gone, and come again in another version.
		c.Mapper.Reset()
	}
	return nil, first
}

// Has says whether objects of the kind have sizes, and what the kind's resource is.
func (c *Client) Has(kind schema.GroupKind, version string) (bool, schema.GroupResource, error) {
	m, err := c.Mapper.RESTMapping(kind, version)
	if err != nil {
		return false, schema.GroupResource{}, err
	}
	list, err := c.client.Discovery().ServerResourcesForGroupVersion(m.Resource.GroupVersion().String())
	if err != nil {
		return false, schema.GroupResource{}, fmt.Errorf("read the resources of %s: %w", m.Resource.GroupVersion(), err)
	}
	for _, r := range list.APIResources {
		if r.Name == m.Resource.Resource+"/scale" {
			return true, m.Resource.GroupResource(), nil
		}
	}
	return false, m.Resource.GroupResource(), nil
}

func (c *Client) rest() rest.Interface { return c.client.AutoscalingV1().RESTClient() }

// request leads to a scale subresource.
func request(r *rest.Request, gvr schema.GroupVersionResource, namespace, name string) *rest.Request {
	root := "/apis"
	if gvr.Group == "" {
		root = "/api"
	}
	return r.AbsPath(path.Join(root, gvr.Group, gvr.Version)).Namespace(namespace).Resource(gvr.Resource).Name(name).SubResource("scale")
}

// Resize has the target be of n replicas, whoever else writes it at the same time.
func (c *Client) Resize(ctx context.Context, t *Target, n int32) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		t.Scale.Spec.Replicas = n
		err := request(c.rest().Put(), t.Resource, t.Scale.Namespace, t.Scale.Name).Body(t.Scale).Do(ctx).Error()
		if !apierrors.IsConflict(err) {
			return err
		}
		latest := &autoscalingv1.Scale{}
		if again := request(c.rest().Get(), t.Resource, t.Scale.Namespace, t.Scale.Name).Do(ctx).Into(latest); again != nil {
			return fmt.Errorf("read the scale after a conflict: %w", again)
		}
		t.Scale = latest
		return err
	})
}
