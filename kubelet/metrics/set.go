// Package metrics is what the kubelet counts and times as it happens, under the names, labels and buckets that kube-prometheus and
// the dashboards of kubelets know. What can be counted when somebody asks is not here but in package stats.
//
// A count costs well below a microsecond, and nothing runs when nothing happens. All methods of a nil Set do nothing, so that parts of
// the kubelet can be run without one.
package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // requests to API servers are counted in the registry of the process
)

// Set is everything that one kubelet counts. It is safe for concurrent use.
type Set struct {
	kubelet, probes metrics.KubeRegistry

	podWorker                               *metrics.HistogramVec
	podWorkerStart, podStart, podStartTotal *metrics.Histogram
	statusSync                              *metrics.Histogram
	runtime, sandbox, cgroup                *metrics.HistogramVec
	runtimeTotal, runtimeErrors             *metrics.CounterVec
	sandboxErrors                           *metrics.CounterVec
	pods, podErrors                         *metrics.Counter
	userPods, userPodErrors                 *metrics.Counter
	containers, containerErrors, terminated *metrics.CounterVec
	rejections, preemptions, evictions      *metrics.CounterVec
	imagePull                               *metrics.HistogramVec
	imagesCollected                         *metrics.CounterVec
	imageVolumes, imageVolumesMounted       *metrics.Counter
	imageVolumeErrors                       *metrics.Counter
	storage                                 *metrics.HistogramVec
	csi, deviceAllocations                  *metrics.HistogramVec
	devicePlugins                           *metrics.CounterVec
	asked                                   *metrics.CounterVec
	askedFor, askFailed                     map[string]*metrics.CounterVec
	requests                                requests

	probe         *metrics.CounterVec
	probeDuration *metrics.HistogramVec
}

// Buckets of durations, in seconds.
var (
	startBuckets  = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	statusBuckets = []float64{0.010, 0.050, 0.100, 0.500, 1, 5, 10, 20, 30, 45, 60}
	pullBuckets   = []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	storeBuckets  = []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}
)

// New makes a Set in which nothing has been counted.
func New() *Set {
	s := &Set{kubelet: metrics.NewKubeRegistry(), probes: metrics.NewKubeRegistry()}
	s.makePods()
	s.makeContainers()
	s.makeImages()
	s.runtimeTotal = s.counters("runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type")
	s.runtimeErrors = s.counters("runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type")
	s.runtime = s.histograms("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", metrics.ExponentialBuckets(.005, 2.5, 14), "operation_type")
	s.cgroup = s.histograms("kubelet_cgroup_manager_duration_seconds", "Duration in seconds for cgroup manager operations. Broken down by method.", metrics.DefBuckets, "operation_type")
	s.storage = s.histograms("storage_operation_duration_seconds", "Storage operation duration", storeBuckets, "volume_plugin", "operation_name", "status", "migrated")
	s.csi = s.histograms("csi_operations_seconds", "Container Storage Interface operation duration with gRPC error code status total", storeBuckets, "driver_name", "method_name", "grpc_status_code", "migrated")
	s.preemptions = s.counters("preemptions", "Cumulative number of pod preemptions by preemption resource", "preemption_signal")
	s.evictions = s.counters("evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
	s.makePodResources()
	s.makeDevices()
	s.makeRequests()
	s.probe = metrics.NewCounterVec(&metrics.CounterOpts{Name: "prober_probe_total", StabilityLevel: metrics.BETA,
		Help: "Cumulative number of a liveness, readiness or startup probe for a container by result."}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"})
	s.probeDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{Name: "prober_probe_duration_seconds", StabilityLevel: metrics.ALPHA, Buckets: metrics.DefBuckets,
		Help: "Duration in seconds for a probe response."}, []string{"probe_type", "container", "pod", "namespace"})
	s.probes.MustRegister(s.probe, s.probeDuration)
	return s
}

func (s *Set) makePods() {
	s.podWorker = s.histograms("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", metrics.DefBuckets, "operation_type")
	s.podWorkerStart = s.histogram("kubelet_pod_worker_start_duration_seconds", "Duration in seconds from kubelet seeing a pod to starting a worker.", metrics.DefBuckets)
	s.podStart = s.histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", startBuckets)
	s.podStartTotal = s.histogram("kubelet_pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", startBuckets)
	s.statusSync = s.histogram("kubelet_pod_status_sync_duration_seconds", "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.", statusBuckets)
	s.pods = s.counter("started_pods_total", "Cumulative number of pods started", metrics.ALPHA)
	s.podErrors = s.counter("started_pods_errors_total", "Cumulative number of errors when starting pods", metrics.ALPHA)
	s.userPods = s.counter("started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.", metrics.ALPHA)
	s.userPodErrors = s.counter("started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.", metrics.ALPHA)
	s.rejections = s.counters("admission_rejections_total", "Cumulative number pod admission rejections by the Kubelet.", "reason")
	s.sandbox = s.histograms("kubelet_run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", metrics.DefBuckets, "runtime_handler")
	s.sandboxErrors = s.counters("run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", "runtime_handler")
}

func (s *Set) makeContainers() {
	s.containers = s.counters("started_containers_total", "Cumulative number of containers started", "container_type")
	s.containerErrors = s.counters("started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code")
	s.terminated = s.counters("terminated_containers_total", "Cumulative number of container terminations.", "container_type", "exit_code", "reason")
}

func (s *Set) makeImages() {
	s.imagePull = s.histograms("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.", pullBuckets, "image_size_in_bytes")
	s.imagesCollected = s.counters("image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age.", "reason")
	s.imageVolumes = s.counter("image_volume_requested_total", "Number of requested image volumes.", metrics.BETA)
	s.imageVolumesMounted = s.counter("image_volume_mounted_succeed_total", "Number of successful image volume mounts.", metrics.BETA)
	s.imageVolumeErrors = s.counter("image_volume_mounted_errors_total", "Number of failed image volume mounts.", metrics.BETA)
}

// Requests of the API podresources.
const List, Get, GetAllocatable = "list", "get", "get_allocatable"

func (s *Set) makePodResources() {
	const version = "server_api_version"
	s.asked = s.counters("pod_resources_endpoint_requests_total", "Cumulative number of requests to the PodResource endpoint. Broken down by server api version.", version)
	s.askedFor, s.askFailed = map[string]*metrics.CounterVec{}, map[string]*metrics.CounterVec{}
	for what, name := range map[string]string{List: "List", Get: "Get", GetAllocatable: "GetAllocatableResources"} {
		s.askedFor[what] = s.counters("pod_resources_endpoint_requests_"+what, "Number of requests to the PodResource "+name+" endpoint. Broken down by server api version.", version)
		s.askFailed[what] = s.counters("pod_resources_endpoint_errors_"+what, "Number of requests to the PodResource "+name+" endpoint which returned error. Broken down by server api version.", version)
	}
}

// PodResourcesAsked tells of a request of the API podresources, and how it failed.
func (s *Set) PodResourcesAsked(what string, err error) {
	if s == nil {
		return
	}
	s.asked.WithLabelValues("v1").Inc()
	s.askedFor[what].WithLabelValues("v1").Inc()
	if err != nil {
		s.askFailed[what].WithLabelValues("v1").Inc()
	}
}

func (s *Set) counter(name, help string, level metrics.StabilityLevel) *metrics.Counter {
	c := metrics.NewCounter(&metrics.CounterOpts{Subsystem: "kubelet", Name: name, Help: help, StabilityLevel: level})
	s.kubelet.MustRegister(c)
	return c
}

func (s *Set) counters(name, help string, labels ...string) *metrics.CounterVec {
	c := metrics.NewCounterVec(&metrics.CounterOpts{Subsystem: "kubelet", Name: name, Help: help, StabilityLevel: metrics.ALPHA}, labels)
	s.kubelet.MustRegister(c)
	return c
}

func (s *Set) histogram(name, help string, buckets []float64) *metrics.Histogram {
	h := metrics.NewHistogram(&metrics.HistogramOpts{Name: name, Help: help, Buckets: buckets, StabilityLevel: metrics.ALPHA})
	s.kubelet.MustRegister(h)
	return h
}

func (s *Set) histograms(name, help string, buckets []float64, labels ...string) *metrics.HistogramVec {
	h := metrics.NewHistogramVec(&metrics.HistogramOpts{Name: name, Help: help, Buckets: buckets, StabilityLevel: metrics.ALPHA}, labels)
	s.kubelet.MustRegister(h)
	return h
}

// Kubelet serves all but probes; it is a part of /metrics.
func (s *Set) Kubelet() http.Handler { return handler(s.kubelet) }

// Probes serves what is counted of probes: /metrics/probes.
func (s *Set) Probes() http.Handler { return handler(s.probes) }

func handler(r metrics.KubeRegistry) http.Handler {
	return metrics.HandlerFor(r, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError})
}

// WorkerStarted tells that a Pod's worker began so long after the Pod was seen.
func (s *Set) WorkerStarted(after time.Duration) {
	if s != nil {
		s.podWorkerStart.Observe(after.Seconds())
	}
}

// PodRuns tells that the first regular containers of a Pod were started: so long after it was seen, and after it was created.
func (s *Set) PodRuns(seen, created time.Duration) {
	if s != nil {
		s.podStart.Observe(seen.Seconds())
		s.podStartTotal.Observe(created.Seconds())
	}
}

// Synced tells how long a worker took for something: create, all until a new Pod runs; sync, one look at a Pod; terminating, its end
// until no container runs.
func (s *Set) Synced(what string, took time.Duration) {
	if s != nil {
		s.podWorker.WithLabelValues(what).Observe(took.Seconds())
	}
}

// StatusWritten tells that a status reached the API so long after it was known.
func (s *Set) StatusWritten(after time.Duration) {
	if s != nil {
		s.statusSync.Observe(after.Seconds())
	}
}

// SandboxStarted tells of a try to start a Pod's sandbox.
func (s *Set) SandboxStarted(p *v1.Pod, err error) {
	if s == nil {
		return
	}
	users := p.Spec.HostUsers != nil && !*p.Spec.HostUsers
	s.pods.Inc()
	if users {
		s.userPods.Inc()
	}
	if err == nil {
		return
	}
	s.podErrors.Inc()
	if users {
		s.userPodErrors.Inc()
	}
}

// ContainerStarted tells of a try to start a container; code is why it failed, empty if it did not.
func (s *Set) ContainerStarted(kind, code string) {
	if s == nil {
		return
	}
	s.containers.WithLabelValues(kind).Inc()
	if code != "" {
		s.containerErrors.WithLabelValues(kind, code).Inc()
	}
}

// ContainerEnded tells of a container that runs no more.
func (s *Set) ContainerEnded(kind string, end *v1.ContainerStateTerminated) {
	if s != nil {
		s.terminated.WithLabelValues(kind, strconv.Itoa(int(end.ExitCode)), end.Reason).Inc()
	}
}

// reasons are those of refusals that are told apart.
var reasons = []string{
	"AppArmor", "PodOSSelectorNodeLabelDoesNotMatch", "PodOSNotSupported", "InvalidNodeInfo", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory",
	"OutOfephemeral-storage", "OutOfpods", "PodFeatureUnsupported", "TaintToleration", "Evicted", "SysctlForbidden",
}

// Rejected tells that the node did not take a Pod.
func (s *Set) Rejected(reason string) {
	if s == nil {
		return
	}
	switch {
	case slices.Contains(reasons, reason):
	case strings.HasPrefix(reason, "OutOf"):
		reason = "OutOfExtendedResources"
	default:
		reason = "Other"
	}
	s.rejections.WithLabelValues(reason).Inc()
}

// Preempted tells that a Pod ended so that another one has so much of a resource.
func (s *Set) Preempted(resource string) {
	if s != nil {
		s.preemptions.WithLabelValues(resource).Inc()
	}
}

// Evicted tells that a Pod ended for a signal.
func (s *Set) Evicted(signal string) {
	if s != nil {
		s.evictions.WithLabelValues(signal).Inc()
	}
}

// CgroupDone times an operation on a Pod's cgroup (create, update, destroy) that began then.
func (s *Set) CgroupDone(what string, began time.Time) {
	if s != nil {
		s.cgroup.WithLabelValues(what).Observe(time.Since(began).Seconds())
	}
}

// StorageDone times an operation on volumes that began then.
func (s *Set) StorageDone(plugin, what string, began time.Time, err error) {
	if s == nil {
		return
	}
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	s.storage.WithLabelValues(plugin, what, status, "false").Observe(time.Since(began).Seconds())
}
