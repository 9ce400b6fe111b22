// Package volumeexpand answers claims that ask for more than they have. Nothing here can make a volume grow: the claim is told
// whom it waits for, and a CSI driver's resizer does the rest. Volumes of the built-in provisioner are that one's to grow.
package volumeexpand

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "expand-controller"

// New returns the controller. A key is a claim that has come to ask for more.
func New(d engine.Deps) (engine.Runner, error) {
	claims, volumes := d.Informers.Core().V1().PersistentVolumeClaims(), d.Informers.Core().V1().PersistentVolumes()
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		claim, err := claims.Lister().PersistentVolumeClaims(key.Namespace).Get(key.Name)
		if apierrors.IsNotFound(err) || err == nil && !claimgrowth.Wanted(claim) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read claim: %w", err)
		}
		volume, err := volumes.Lister().Get(claim.Spec.VolumeName)
		if err == nil && !isOf(volume, claim) || apierrors.IsNotFound(err) {
			// What is known of volumes may be older than what is known of claims, and nobody would say it again.
			volume, err = d.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read volume: %w", err)
		}
		if !isOf(volume, claim) || localpath.Made(volume) {
			return nil
		}
		if volume.Spec.CSI != nil {
			d.Recorder.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
			return nil
		}
		d.Recorder.Event(claim, corev1.EventTypeWarning, "ExternalExpanding",
			"Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC.")
		return nil
	}
	claimsSeen, err := claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: engine.Object(loop),
		UpdateFunc: func(old, now any) {
			was, ok := old.(*corev1.PersistentVolumeClaim)
			is, isClaim := now.(*corev1.PersistentVolumeClaim)
			if ok && isClaim && was.Spec.Resources.Requests.Storage().Cmp(*is.Spec.Resources.Requests.Storage()) < 0 {
				engine.Object(loop)(is)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	volumesSeen, err := volumes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{})
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{claimsSeen.HasSyncedChecker(), volumesSeen.HasSyncedChecker()}
	return loop, nil
}

// isOf says whether the volume is bound to this claim, not to one that had its name before.
func isOf(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.UID == claim.UID
}
