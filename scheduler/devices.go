package scheduler

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
)

// early says whether nothing can be decided yet on a Pod that may need devices, which waits then: what there is of them is not known, or
// its claims are not there. The first such Pod has the watch for devices begin. The caller holds mu.
func (s *Scheduler) early(ctx context.Context, pod *framework.Pod) bool {
	if !s.devicesWatched {
		s.devicesWatched = true
		s.waits.Go(func() {
			if err := s.watchDevices(ctx); err != nil {
				klog.FromContext(ctx).Error(err, "Watch for devices failed: Pods that need some wait")
			}
		})
	}
	devices := s.cluster.Known().Devices
	devices.Now = s.cfg.Clock.Now()
	if s.devicesKnown {
		err := dynamicresources.Gate(pod, devices)
		if err == nil {
			return false
		}
		klog.FromContext(ctx).V(4).Info("A Pod waits for its claims", "pod", klog.KObj(pod.Pod), "reason", err.Error())
	}
	s.queue.Hold(pod.UID, dynamicresources.Plugin{}.Name())
	return true
}

// watchDevices starts to follow claims, classes, slices and rules that taint devices, and wakes who waits for that when all that is there
// is known.
func (s *Scheduler) watchDevices(ctx context.Context) error {
	resources := s.cfg.Informers.Resource().V1()
	claims, err := handle(resources.ResourceClaims().Informer(), s.resourceClaimChanged)
	if err != nil {
		return err
	}
	classes, err := handle(resources.DeviceClasses().Informer(), s.deviceClassChanged)
	if err != nil {
		return err
	}
	slices, err := handle(resources.ResourceSlices().Informer(), s.sliceChanged)
	if err != nil {
		return err
	}
	rules, err := handle(resources.DeviceTaintRules().Informer(), s.taintRuleChanged)
	if err != nil {
		return err
	}
	s.cfg.Informers.StartWithContext(ctx)
	if !cache.WaitFor(ctx, "", claims, classes, slices, rules) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devicesKnown = true
	s.devicesHappened(framework.DeviceEvent{})
	return nil
}

// resourceClaimChanged takes in that a claim for devices appeared (old nil), changed, or went (new nil).
func (s *Scheduler) resourceClaimChanged(old, new *resourcev1.ResourceClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if devices := s.cluster.Known().Devices; new == nil {
		devices.RemoveClaim(old)
	} else {
		devices.SetClaim(new)
	}
	s.devicesHappened(framework.DeviceEvent{OldClaim: old, NewClaim: new})
}

// deviceClassChanged takes in that a class of devices appeared (old nil), changed, or went (new nil).
func (s *Scheduler) deviceClassChanged(old, new *resourcev1.DeviceClass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if devices := s.cluster.Known().Devices; new == nil {
		devices.RemoveClass(old)
	} else {
		devices.SetClass(new)
	}
	s.devicesHappened(framework.DeviceEvent{OldClass: old, NewClass: new})
}

// sliceChanged takes in that devices somewhere appeared (old nil), changed, or went (new nil).
func (s *Scheduler) sliceChanged(old, new *resourcev1.ResourceSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if devices := s.cluster.Known().Devices; new == nil {
		devices.RemoveSlice(old)
	} else {
		devices.SetSlice(new)
	}
	s.devicesHappened(framework.DeviceEvent{OldSlice: old, NewSlice: new})
}

// taintRuleChanged takes in that a rule that taints devices appeared (old nil), changed, or went (new nil). What its status tells is of no
// account here.
func (s *Scheduler) taintRuleChanged(old, new *resourcev1.DeviceTaintRule) {
	if old != nil && new != nil && old.UID == new.UID && old.Generation == new.Generation {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if devices := s.cluster.Known().Devices; new == nil {
		devices.RemoveRule(old)
	} else {
		devices.SetRule(new)
	}
	s.devicesHappened(framework.DeviceEvent{OldRule: old, NewRule: new})
}

// devicesHappened tells those who wait. The caller holds mu.
func (s *Scheduler) devicesHappened(e framework.DeviceEvent) {
	s.storageHappened(framework.Event{Devices: &e})
}

// releaseDevices ends what was assumed for a Pod, as if its claims had been deallocated. The caller holds mu.
func (s *Scheduler) releaseDevices(pod types.UID) {
	devices := s.cluster.Known().Devices
	for _, claim := range devices.ReleasePod(pod) {
		s.devicesHappened(framework.DeviceEvent{OldClaim: claim, NewClaim: devices.Claim(framework.ClaimKey(claim))})
	}
}

// devicesLeft ends what is still assumed for a Pod that has gone or is over: a claim that was made for its extended resources and has not
// been seen. While the Pod is being bound its binding does that, as it may be writing. The caller holds mu.
func (s *Scheduler) devicesLeft(pod types.UID) {
	if s.binding[pod] == nil {
		s.releaseDevices(pod)
	}
}
