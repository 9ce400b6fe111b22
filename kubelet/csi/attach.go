package csi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/internal/csiname"
)

// notAttachedError says that nobody has attached the volume in time. It is worded as the event of Kubernetes that it becomes.
type notAttachedError struct{ volume string }

func (e *notAttachedError) Error() string {
	return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%[1]s], unattached volumes=[%[1]s], failed to process volumes=[]: %[2]s",
		e.volume, context.DeadlineExceeded)
}

// attached waits until the volume is attached to the node, and returns what the driver's controller has to say to its node part.
//
// Who attaches and who mounts agree by the Node object: the node first says that it uses the volume, and then believes only an
// object that says so and that the volume is attached. So a volume is never detached between being believed attached and mounted.
func (p *Plugin) attached(ctx context.Context, v *Volume, unique v1.UniqueVolumeName) (map[string]string, error) {
	timeout := time.NewTimer(attachTimeout)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		node, news := p.node, p.nodeNews
		p.mu.Unlock()
		if node != nil && slices.Contains(node.Status.VolumesInUse, unique) &&
			slices.ContainsFunc(node.Status.VolumesAttached, func(a v1.AttachedVolume) bool { return a.Name == unique }) {
			break
		}
		select {
		case <-news:
		case <-timeout.C:
			return nil, &notAttachedError{v.Named}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	found, err := p.attachment(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("MountVolume.WaitForAttach failed for volume %q : %w", v.name(), err)
	}
	return found, nil
}

// attachment reads what the driver's controller tells of the attached volume.
func (p *Plugin) attachment(ctx context.Context, v *Volume) (map[string]string, error) {
	name := csiname.Attachment(v.handle(), v.driver(), p.cfg.NodeName)
	a, err := p.cfg.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("volume %v has GET error for volume attachment %v: %w", v.handle(), name, err)
	case a.Status.Attached:
		return a.Status.AttachmentMetadata, nil
	case a.Status.AttachError != nil:
		return nil, errors.New(a.Status.AttachError.Message)
	}
	return nil, fmt.Errorf("volume %v is not attached for volume attachment %v", v.handle(), name)
}
