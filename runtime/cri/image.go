package cri

import (
	"context"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var _ internalapi.ImageManagerService = (*Service)(nil)

// ListImages asks the image store.
func (s *Service) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return s.cfg.Images.ListImages(ctx, filter)
}

// ImageStatus asks the image store.
func (s *Service) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	return s.cfg.Images.ImageStatus(ctx, image, verbose)
}

// PullImage asks the image store.
func (s *Service) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	return s.cfg.Images.PullImage(ctx, image, auth, sandbox)
}

// RemoveImage asks the image store. Containers of the image keep their file systems.
func (s *Service) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	return s.cfg.Images.RemoveImage(ctx, image)
}

// ImageFsInfo asks the image store.
func (s *Service) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return s.cfg.Images.ImageFsInfo(ctx)
}
