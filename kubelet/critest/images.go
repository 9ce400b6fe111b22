package critest

import (
	"context"
	"fmt"
	"sync"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images are a node's images and a registry that has all but the broken ones.
type Images struct {
	internalapi.ImageManagerService

	mu      sync.Mutex
	present map[string]*runtimeapi.Image
	broken  map[string]error
	pulls   []string
	auths   []*runtimeapi.AuthConfig
	// Hold, if set, is received from before a pull ends.
	Hold chan struct{}
}

// NewImages makes Images of which some are present.
func NewImages(present ...string) *Images {
	i := &Images{present: map[string]*runtimeapi.Image{}, broken: map[string]error{}}
	for _, name := range present {
		i.Add(&runtimeapi.Image{Id: "sha256:" + name, RepoTags: []string{name}, Size: 42})
	}
	return i
}

// Add makes an image present.
func (i *Images) Add(img *runtimeapi.Image) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.present[img.Id] = img
	for _, tag := range img.RepoTags {
		i.present[tag] = img
	}
}

// Break makes pulls of an image fail; nil mends it.
func (i *Images) Break(name string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.broken[name] = err
}

// Pulls are the images pulled so far, in order.
func (i *Images) Pulls() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.pulls...)
}

// Auths are the credentials that pulls came with, nil for none.
func (i *Images) Auths() []*runtimeapi.AuthConfig {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]*runtimeapi.AuthConfig(nil), i.auths...)
}

// ImageStatus implements CRI.
func (i *Images) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: i.present[spec.Image]}, nil
}

// ListImages implements CRI.
func (i *Images) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []*runtimeapi.Image
	for key, img := range i.present {
		if key == img.Id {
			out = append(out, img)
		}
	}
	return out, nil
}

// PullImage implements CRI.
func (i *Images) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	i.mu.Lock()
	i.pulls = append(i.pulls, spec.Image)
	i.auths = append(i.auths, auth)
	hold, err := i.Hold, i.broken[spec.Image]
	i.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", fmt.Errorf("pull image %s: %w", spec.Image, ctx.Err())
		}
	}
	if err != nil {
		return "", err
	}
	i.Add(&runtimeapi.Image{Id: "sha256:" + spec.Image, RepoTags: []string{spec.Image}, Size: 42})
	return "sha256:" + spec.Image, nil
}
