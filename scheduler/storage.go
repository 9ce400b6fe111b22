package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/synced"
	"github.com/peapod/peapod/scheduler/framework"
)

// claimChanged takes in that a claim appeared (old nil), changed, or went (new nil).
func (s *Scheduler) claimChanged(old, new *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	storage := s.cluster.Known().Storage
	if new == nil {
		storage.RemoveClaim(old)
	} else {
		storage.SetClaim(new)
	}
	s.storageHappened(framework.Event{OldClaim: old, NewClaim: new})
}

// volumeChanged takes in that a volume appeared (old nil), changed, or went (new nil).
func (s *Scheduler) volumeChanged(old, new *corev1.PersistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	storage := s.cluster.Known().Storage
	if new == nil {
		storage.RemoveVolume(old)
	} else {
		storage.SetVolume(new)
	}
	s.storageHappened(framework.Event{OldVolume: old, NewVolume: new})
}

// classChanged takes in that a storage class appeared (old nil), changed, or went (new nil).
func (s *Scheduler) classChanged(old, new *storagev1.StorageClass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	storage := s.cluster.Known().Storage
	if new == nil {
		storage.RemoveClass(old)
	} else {
		storage.SetClass(new)
	}
	s.storageHappened(framework.Event{OldClass: old, NewClass: new})
}

// csiNodeChanged takes in that the drivers of a node appeared (old nil), changed, or went (new nil).
func (s *Scheduler) csiNodeChanged(old, new *storagev1.CSINode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if csi := s.cluster.Known().CSI; new == nil {
		csi.RemoveNode(old)
	} else {
		csi.SetNode(new)
	}
	s.storageHappened(framework.Event{OldCSINode: old, NewCSINode: new})
}

// csiDriverChanged takes in that what is said of a driver appeared (old nil), changed, or went (new nil).
func (s *Scheduler) csiDriverChanged(old, new *storagev1.CSIDriver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if csi := s.cluster.Known().CSI; new == nil {
		csi.RemoveDriver(old)
	} else {
		csi.SetDriver(new)
	}
	s.storageHappened(framework.Event{OldCSIDriver: old, NewCSIDriver: new})
}

// attachmentChanged takes in that a volume is to be attached (old nil), that this changed, or that it is detached (new nil).
func (s *Scheduler) attachmentChanged(old, new *storagev1.VolumeAttachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if csi := s.cluster.Known().CSI; new == nil {
		csi.RemoveAttachment(old)
	} else {
		csi.SetAttachment(new)
	}
	s.storageHappened(framework.Event{OldAttachment: old, NewAttachment: new})
}

// followRoom has reports of the room that drivers have for volumes be followed, once a driver makes any, and returns when those that
// there are are known: else Pods would be refused for want of them.
func (s *Scheduler) followRoom(ctx context.Context) error {
	s.mu.Lock()
	begin := !s.roomFollowed && s.cluster.Known().CSI.RoomReported()
	s.roomFollowed = s.roomFollowed || begin
	s.mu.Unlock()
	if !begin {
		return nil
	}
	known, err := handle(s.cfg.Informers.Storage().V1().CSIStorageCapacities().Informer(), s.capacityChanged)
	if err != nil {
		return err
	}
	s.cfg.Informers.StartWithContext(ctx)
	if !synced.Wait(ctx, synced.Limit, known) && ctx.Err() == nil {
		klog.FromContext(ctx).Info("Reports of drivers' free storage are not known: pods that need volumes of such drivers wait")
	}
	return nil
}

// capacityChanged takes in that a report of a driver's room appeared (old nil), changed, or went (new nil).
func (s *Scheduler) capacityChanged(old, new *storagev1.CSIStorageCapacity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if csi := s.cluster.Known().CSI; new == nil {
		csi.RemoveCapacity(old)
	} else {
		csi.SetCapacity(new)
	}
	s.storageHappened(framework.Event{OldCapacity: old, NewCapacity: new})
}

// storageHappened tells those who wait in the queue, and those whose volumes are being bound. The caller holds mu.
func (s *Scheduler) storageHappened(e framework.Event) {
	s.queue.Happened(e, s.cfg.Clock.Now())
	s.signal()
	for _, wait := range s.binding {
		if wait.concerns(e) {
			wait.look()
		}
	}
}
