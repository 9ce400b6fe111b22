package metrics

import (
	"time"

	"k8s.io/component-base/metrics"
)

func (s *Set) makeDevices() {
	s.devicePlugins = s.counters("device_plugin_registration_total", "Cumulative number of device plugin registrations. Broken down by resource name.", "resource_name")
	s.deviceAllocations = s.histograms("kubelet_device_plugin_alloc_duration_seconds", "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.", metrics.DefBuckets, "resource_name")
}

// DevicePluginRegistered tells that a plugin with devices of a resource asks to be registered.
func (s *Set) DevicePluginRegistered(resource string) {
	if s != nil {
		s.devicePlugins.WithLabelValues(resource).Inc()
	}
}

// DevicesAllocated tells how long a plugin was asked for devices.
func (s *Set) DevicesAllocated(resource string, took time.Duration) {
	if s != nil {
		s.deviceAllocations.WithLabelValues(resource).Observe(took.Seconds())
	}
}
