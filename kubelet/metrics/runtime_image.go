package metrics

import (
	"context"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// timedImages counts and times what a container runtime is asked for of images.
type timedImages struct {
	internalapi.ImageManagerService
	set *Set
}

// Images returns i, each of whose operations is counted.
func (s *Set) Images(i internalapi.ImageManagerService) internalapi.ImageManagerService {
	return &timedImages{i, s}
}

func (r *timedImages) ListImages(ctx context.Context, f *runtimeapi.ImageFilter) (out []*runtimeapi.Image, err error) {
	defer r.set.operation("list_images", time.Now(), &err)
	return r.ImageManagerService.ListImages(ctx, f)
}

func (r *timedImages) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, verbose bool) (out *runtimeapi.ImageStatusResponse, err error) {
	defer r.set.operation("image_status", time.Now(), &err)
	return r.ImageManagerService.ImageStatus(ctx, spec, verbose)
}

func (r *timedImages) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (out string, err error) {
	defer r.set.operation("pull_image", time.Now(), &err)
	return r.ImageManagerService.PullImage(ctx, spec, auth, sandbox)
}

func (r *timedImages) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) (err error) {
	defer r.set.operation("remove_image", time.Now(), &err)
	return r.ImageManagerService.RemoveImage(ctx, spec)
}

func (r *timedImages) ImageFsInfo(ctx context.Context) (out *runtimeapi.ImageFsInfoResponse, err error) {
	defer r.set.operation("image_fs_info", time.Now(), &err)
	return r.ImageManagerService.ImageFsInfo(ctx)
}
