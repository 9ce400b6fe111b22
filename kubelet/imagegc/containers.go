package imagegc

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// DeadContainers removes the containers of Pods that are over. Their log files stay
// until their Pods leave the API, but their layers give disk and hold images
// no longer. The containers of Pods that live are their own lifecycle's.
func DeadContainers(runtime internalapi.RuntimeService, pods func() []*v1.Pod) func(context.Context) error {
	return func(ctx context.Context) error {
		over := map[types.UID]bool{}
		for _, p := range pods() {
			over[p.UID] = p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
		}
		dead := runtimeapi.ContainerState_CONTAINER_EXITED
		list, err := runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: dead}})
		if err != nil {
			return fmt.Errorf("list dead containers: %w", err)
		}
		var errs []error
		for _, c := range list {
			if over[types.UID(c.Labels[criconfig.LabelPodUID])] {
				if err := runtime.RemoveContainer(ctx, c.Id); err != nil {
					errs = append(errs, fmt.Errorf("remove dead container %s: %w", c.Id, err))
				}
			}
		}
		return errors.Join(errs...)
	}
}
