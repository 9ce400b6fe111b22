package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// claimChanged takes in that a claim appeared (old nil), changed, or went (new nil).
func (s *Scheduler) claimChanged(old, new *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	storage := s.cluster.View().Storage
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
	storage := s.cluster.View().Storage
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
	storage := s.cluster.View().Storage
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
	if csi := s.cluster.View().CSI; new == nil {
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
	if csi := s.cluster.View().CSI; new == nil {
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
	if csi := s.cluster.View().CSI; new == nil {
		csi.RemoveAttachment(old)
	} else {
		csi.SetAttachment(new)
	}
	s.storageHappened(framework.Event{OldAttachment: old, NewAttachment: new})
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
