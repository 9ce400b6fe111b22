package persistentvolume

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// What a volume is emptied by; upstream's.
const (
	recyclerNamespace = metav1.NamespaceDefault
	recyclerPrefix    = "recycler-for-"
	recyclerImage     = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.6"
	recyclerScript    = `test -e /scrub && find /scrub -mindepth 1 -delete && test -z "$(ls -A /scrub)" || exit 1`
	reasonRecycled    = "VolumeRecycled"
	// A recycler has that many seconds, and more of them for large volumes.
	recyclerSeconds       = 60
	recyclerSecondsPerGiB = 30
)

// recycleAgain is after what time a volume is recycled anew that could not be.
const recycleAgain = time.Minute

// recyclable says whether the volume can be emptied by a Pod that has it as a volume of its own.
func recyclable(v *corev1.PersistentVolume) bool { return v.Spec.HostPath != nil }

// recyclerChanged queues the volume that a Pod empties.
func (c *controller) recyclerChanged(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil || name.Namespace != recyclerNamespace {
		return
	}
	if volume, ok := strings.CutPrefix(name.Name, recyclerPrefix); ok {
		c.addVolume(volume)
	}
}

// recycle empties a volume whose claim is gone, by a Pod, and makes it available again. The Pod's events bring the volume back.
// Only a Pod that this process has made is believed: anybody who may make Pods could say that a volume is empty. After a start
// it is emptied anew.
func (c *controller) recycle(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.DeletionTimestamp != nil {
		return nil
	}
	used, err := pods.UsersOf(c.podIndex, cache.ObjectName{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name})
	if err != nil {
		return err
	}
	if names := active(used); len(names) > 0 {
		c.event(v, &note{corev1.EventTypeNormal, reasonVolumeFailedRecycle, "Volume is used by pods: " + strings.Join(names, ",")})
		return &engine.Retry{After: recycleAgain, Why: "Pods use the volume"}
	}
	obj, exists, err := c.podIndex.GetByKey(recyclerNamespace + "/" + recyclerPrefix + v.Name)
	if err != nil {
		return fmt.Errorf("read recycler of volume %s: %w", v.Name, err)
	}
	p, ok := obj.(*corev1.Pod)
	if !exists || !ok {
		return c.startRecycler(ctx, v)
	}
	switch {
	case p.DeletionTimestamp != nil: // its end brings the volume back
		return nil
	case p.UID != c.recyclers[v.Name]:
		return c.endRecycler(ctx, p)
	case p.Status.Phase == corev1.PodSucceeded:
		if err := c.endRecycler(ctx, p); err != nil {
			return err
		}
		delete(c.recyclers, v.Name)
		c.event(v, &note{corev1.EventTypeNormal, reasonRecycled, "Volume recycled"})
		return c.unbind(ctx, v)
	case p.Status.Phase == corev1.PodFailed:
		why := p.Status.Message
		if why == "" {
			why = "pod failed, pod.Status.Message unknown"
		}
		message := "Recycle failed: failed to recycle volume: " + why
		if v.Status.Phase != corev1.VolumeFailed { // its event brings the volume back
			return c.setVolume(ctx, v, corev1.VolumeFailed, message, warn(reasonVolumeFailedRecycle, "%s", message))
		}
		delete(c.recyclers, v.Name)
		c.event(v, warn(reasonVolumeFailedRecycle, "%s", message))
		return &engine.Retry{After: recycleAgain, Why: message}
	}
	return nil
}

// active names the Pods that are not done.
func active(list []*corev1.Pod) []string {
	var out []string
	for _, p := range list {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out = append(out, p.Namespace+"/"+p.Name)
		}
	}
	return out
}

// startRecycler asks the API whether the volume is still nobody's: the informer may be behind, and show as released what has just
// been emptied and given away.
func (c *controller) startRecycler(ctx context.Context, v *corev1.PersistentVolume) error {
	now, err := c.client.CoreV1().PersistentVolumes().Get(ctx, v.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read volume %s: %w", v.Name, err)
	}
	if now.ResourceVersion != v.ResourceVersion {
		return nil // its event brings the volume back
	}
	p, err := c.client.CoreV1().Pods(recyclerNamespace).Create(ctx, recycler(v), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the informer is behind, and its event brings the volume back
	}
	if err != nil {
		return fmt.Errorf("start recycler of volume %s: %w", v.Name, err)
	}
	c.recyclers[v.Name] = p.UID
	return nil
}

func (c *controller) endRecycler(ctx context.Context, p *corev1.Pod) error {
	err := c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete recycler %s: %w", p.Name, err)
	}
	return nil
}

// recycler is the Pod that empties a volume.
func recycler(v *corev1.PersistentVolume) *corev1.Pod {
	gib := v.Spec.Capacity.Storage().Value() >> 30
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: recyclerNamespace, Name: recyclerPrefix + v.Name},
		Spec: corev1.PodSpec{
			ActiveDeadlineSeconds: ptr.To(max(recyclerSeconds, gib*recyclerSecondsPerGiB)),
			RestartPolicy:         corev1.RestartPolicyNever,
			Volumes: []corev1.Volume{{Name: "vol", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: v.Spec.HostPath.Path}}}},
			Containers: []corev1.Container{{Name: "pv-recycler", Image: recyclerImage, Command: []string{"/bin/sh"}, Args: []string{"-c", recyclerScript},
				VolumeMounts: []corev1.VolumeMount{{Name: "vol", MountPath: "/scrub"}}}},
		},
	}
}
