package pod

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
)

// get reads a Pod.
func get(ctx context.Context, pods rest.Getter, name string) (*corev1.Pod, error) {
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// onKubelet is where the kubelet that runs p serves path.
func onKubelet(ctx context.Context, env resource.Env, p *corev1.Pod, path string, query url.Values) (*url.URL, http.RoundTripper, error) {
	if env.Nodes == nil {
		return nil, nil, apierrors.NewServiceUnavailable("this server does not connect to kubelets")
	}
	base, transport, err := env.Nodes.Kubelet(ctx, p.Spec.NodeName)
	if err != nil {
		return nil, nil, err
	}
	location := *base
	location.Path, location.RawQuery = path, query.Encode()
	return &location, transport, nil
}

// chooseContainer returns the name of the container that is meant by name: the only one if it is empty.
func chooseContainer(p *corev1.Pod, name string) (string, error) {
	if name != "" {
		if !slices.Contains(allContainers(p), name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
		}
		return name, nil
	}
	switch len(p.Spec.Containers) {
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", p.Name))
	case 1:
		return p.Spec.Containers[0].Name, nil
	}
	message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", p.Name, names(p.Spec.Containers))
	if len(p.Spec.InitContainers) > 0 {
		message += fmt.Sprintf(" or one of the init containers: %s", names(p.Spec.InitContainers))
	}
	return "", apierrors.NewBadRequest(message)
}

func names(containers []corev1.Container) []string {
	all := make([]string, len(containers))
	for i := range containers {
		all[i] = containers[i].Name
	}
	return all
}

// allContainers names the containers of every sort.
func allContainers(p *corev1.Pod) []string {
	all := append(names(p.Spec.InitContainers), names(p.Spec.Containers)...)
	for i := range p.Spec.EphemeralContainers {
		all = append(all, p.Spec.EphemeralContainers[i].Name)
	}
	return all
}
