package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
)

func claimOf(v *corev1.PersistentVolume) types.NamespacedName {
	return types.NamespacedName{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name}
}

// bindVolumes writes the plan and waits until every claim is bound to a volume that the node can reach. What was written
// before an error stays: the controller makes the best of it, and the next try finds it so.
func (s *Scheduler) bindVolumes(ctx context.Context, w *bindWait) error {
	if w.volumes == nil {
		return nil
	}
	timer := s.cfg.Clock.NewTimer(s.cfg.VolumeBindTimeout)
	defer timer.Stop()
	if err := s.writeVolumes(ctx, w); err != nil {
		return err
	}
	for {
		done, err := s.volumesBound(w)
		if done || err != nil {
			return err
		}
		select {
		case <-w.news:
		case <-w.gone:
			return errPodGone
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C():
			return context.DeadlineExceeded
		}
	}
}

// writeVolumes writes the plan. The objects carry the version that the decision was made on, so that one which changed
// meanwhile is refused.
func (s *Scheduler) writeVolumes(ctx context.Context, w *bindWait) error {
	core := s.cfg.Client.CoreV1()
	for i, v := range w.volumes.Volumes {
		// A copy: the client writes the kind into what it sends, while the cycle reads the plan.
		sent := *v
		written, err := core.PersistentVolumes().Update(ctx, &sent, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("bind volume %q to claim: %w", v.Name, err)
		}
		s.mu.Lock()
		w.volumes.Volumes[i] = written
		s.mu.Unlock()
	}
	for i, c := range w.volumes.Claims {
		sent := *c
		written, err := core.PersistentVolumeClaims(c.Namespace).Update(ctx, &sent, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("select node for claim %q: %w", c.Name, err)
		}
		s.mu.Lock()
		w.volumes.Claims[i] = written
		s.mu.Unlock()
	}
	return nil
}

// volumesBound says whether all claims are bound; an error says that they never will be as planned.
func (s *Scheduler) volumesBound(w *bindWait) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.node.Node == nil {
		return false, fmt.Errorf("failed to get node of pod %q: it has gone", w.pod.Name)
	}
	all := true
	for _, key := range w.volumes.Waited {
		bound, err := s.claimBound(w, key)
		if err != nil {
			return false, err
		}
		all = all && bound
	}
	return all, nil
}

func (s *Scheduler) claimBound(w *bindWait, key types.NamespacedName) (bool, error) {
	storage := s.cluster.Known().Storage
	claim := storage.WrittenClaim(key)
	if claim == nil {
		return false, fmt.Errorf("failed to check binding: persistentvolumeclaim %q not found", key.Name)
	}
	if volumebinding.Bound(claim) {
		v := storage.WrittenVolume(claim.Spec.VolumeName)
		if v == nil {
			return false, nil // its event is under way, or that of the claim's loss
		}
		if err := volume.CheckNodeAffinity(v, w.node.Node.Labels); err != nil {
			return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", v.Name, w.node.Node.Name, err)
		}
		return claim.Status.Phase == corev1.ClaimBound, nil // the controller's last step: kubelets mount no other
	}
	for _, planned := range w.volumes.Volumes {
		if claimOf(planned) == key {
			return false, stillReserved(storage.WrittenVolume(planned.Name), planned)
		}
	}
	for _, planned := range w.volumes.Claims {
		if framework.Key(planned) == key {
			return false, stillSelected(claim, planned)
		}
	}
	// Another Pod, or this one at an earlier try, has arranged it: see that the arrangement stands.
	plan, err := volumebinding.Plan(w.pod, storage, w.node.Node)
	if err != nil {
		return false, err
	}
	if plan != nil && len(plan.Volumes)+len(plan.Claims) > 0 {
		return false, fmt.Errorf("provisioning failed for PVC %q", key.Name)
	}
	return false, nil
}

// stillReserved returns an error where the volume that was written as planned has lost its claim.
func stillReserved(now, planned *corev1.PersistentVolume) error {
	switch {
	case now == nil:
		return fmt.Errorf("failed to check binding: persistentvolume %q not found", planned.Name)
	case older(now, planned):
		return nil
	case now.Spec.ClaimRef == nil || now.Spec.ClaimRef.UID == "":
		return fmt.Errorf("ClaimRef got reset for pv %q", planned.Name)
	}
	return nil
}

// stillSelected returns an error where the claim that was written as planned has another node, or none: by that its
// provisioner says that it cannot.
func stillSelected(now, planned *corev1.PersistentVolumeClaim) error {
	if !older(now, planned) && now.Annotations[volume.AnnSelectedNode] != planned.Annotations[volume.AnnSelectedNode] {
		return fmt.Errorf("provisioning failed for PVC %q", now.Name)
	}
	return nil
}

// older says whether the informer has yet to show what was written.
func older(now, written metav1.Object) bool {
	order, err := resourceversion.CompareResourceVersion(now.GetResourceVersion(), written.GetResourceVersion())
	return err != nil || order < 0
}
