package e2e

import (
	"strconv"
	"strings"
	"testing"
)

// burner is a Pod whose one container would use a whole core, and has a twentieth; the other sleeps.
const burner = `
apiVersion: v1
kind: Pod
metadata: {name: burner, labels: {app: burner}}
spec:
  containers:
  - {name: hot, image: busybox, command: [sh, -c, "while :; do :; done"], resources: {limits: {cpu: 50m, memory: 64Mi}}}
  - {name: cold, image: busybox, command: [sleep, "1000000"]}
`

// millicores reads the column of CPU of a line of kubectl top.
func millicores(line string, column int) int {
	fields := strings.Fields(line)
	if len(fields) <= column {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSuffix(fields[column], "m"))
	if err != nil {
		return -1
	}
	return n
}

// What Pods and nodes use is known without an add-on, to those who may know it.
func TestTop(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(burner)
	s.ready("burner")
	// It is measured from time to time.
	s.until([]string{"top", "pod", "burner", "--containers", "--no-headers"}, "near its limit of 50m", func(r result) bool {
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		if r.code != 0 || len(lines) != 2 {
			return false
		}
		hot := millicores(lines[1], 2)
		return strings.Contains(lines[0], "cold") && millicores(lines[0], 2) <= 5 && hot >= 30 && hot <= 60
	})
	contains(t, "top pod", s.kubectl("top", "pod", "--sort-by=cpu", "-l", "app=burner"), "NAME", "CPU(cores)", "MEMORY(bytes)", "burner")
	equal(t, "nothing by a label", s.kubectl("top", "pod", "-l", "app=other"), "")
	contains(t, "top pod -A", s.kubectl("top", "pod", "-A"), "NAMESPACE", s.name)
	node := strings.Split(s.kubectl("top", "node"), "\n")
	contains(t, "top node", node[0], "NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)")
	if got := millicores(node[1], 1); got < 30 {
		t.Errorf("node uses %dm: %s", got, node[1])
	}
	contains(t, "table", s.kubectl("get", "podmetrics"), "NAME", "CPU", "MEMORY", "WINDOW", "burner")
	contains(t, "explain", s.kubectl("explain", "podmetrics.containers"), "metrics.k8s.io", "usage")
	contains(t, "who answers", s.kubectl("get", "apiservice", "v1beta1.metrics.k8s.io"), "Local", "True")

	s.kubectl("create", "serviceaccount", "viewer")
	s.kubectl("create", "serviceaccount", "nobody")
	s.kubectl("create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount="+s.name+":viewer")
	viewer, nobody := "--as=system:serviceaccount:"+s.name+":viewer", "--as=system:serviceaccount:"+s.name+":nobody"
	contains(t, "a viewer's", s.kubectl("get", "podmetrics", viewer), "burner")
	s.fails([]string{"get", "nodemetrics", viewer}, "Forbidden", `cannot list resource "nodes" in API group "metrics.k8s.io" at the cluster scope`)
	s.fails([]string{"get", "podmetrics", nobody}, "Forbidden", `cannot list resource "pods" in API group "metrics.k8s.io"`)
}

// What monitoring of a cluster asks of kubelets is there.
func TestKubeletMetrics(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  containers:
  - {name: c, image: busybox, command: [sleep, "1000000"], readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}}
`)
	s.ready("probed")
	node := strings.TrimSpace(s.kubectl("get", "pod", "probed", "-o", "jsonpath={.spec.nodeName}"))
	at := "/api/v1/nodes/" + node + "/proxy/metrics"
	contains(t, "metrics", s.kubectl("get", "--raw", at),
		`kubelet_node_name{node="`+node+`"} 1`, "kubelet_started_pods_total ", `kubelet_started_containers_total{container_type="container"}`,
		`kubelet_runtime_operations_total{operation_type="run_podsandbox"}`, `kubelet_runtime_operations_duration_seconds_bucket{operation_type="start_container",le="`,
		"kubelet_pod_start_duration_seconds_bucket", `kubelet_pod_worker_duration_seconds_bucket{operation_type="create"`, "kubelet_pod_status_sync_duration_seconds_sum",
		`kubelet_cgroup_manager_duration_seconds_count{operation_type="create"}`, "kubelet_certificate_manager_server_ttl_seconds ",
		`storage_operation_duration_seconds_count{migrated="false",operation_name="volume_mount",status="success",volume_plugin="kubernetes.io/projected"}`,
		`volume_manager_total_volumes{plugin_name="kubernetes.io/projected",state="actual_state_of_world"}`, "kubelet_cgroup_version ", `kubelet_http_requests_total{long_running="false",method="GET",path="metrics",server_type="readwrite"}`,
		"rest_client_requests_total{", "process_cpu_seconds_total ", "go_goroutines ")
	contains(t, "metrics of probes", s.kubectl("get", "--raw", at+"/probes"),
		`prober_probe_total{container="c",namespace="`+s.name+`",pod="probed",pod_uid="`, `prober_probe_duration_seconds_bucket{container="c",namespace="`+s.name+`",pod="probed",probe_type="Readiness",le="`)
	s.kubectl("delete", "pod", "probed", "--now")
	s.until([]string{"get", "--raw", at + "/probes"}, "without what is gone", func(r result) bool {
		return r.code == 0 && !strings.Contains(r.stdout, `namespace="`+s.name+`"`)
	})
}

// An autoscaler by CPU makes a Deployment larger whose Pods use more than their share.
func TestAutoscalerByCPU(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      containers:
      - {name: hot, image: busybox, command: [sh, -c, "while :; do :; done"], resources: {requests: {cpu: 5m}, limits: {cpu: 30m}}}
`)
	s.kubectl("autoscale", "deployment", "busy", "--min=1", "--max=2", "--cpu=50%")
	s.kubectl("wait", "--for=jsonpath={.spec.replicas}=2", "deployment/busy", "--timeout=240s")
	s.event("busy", "SuccessfulRescale", "New size: 2; reason: cpu resource utilization (percentage of request) above target")
	s.kubectl("wait", "--for=condition=ScalingActive", "hpa/busy", "--timeout=120s")
	contains(t, "describe", s.kubectl("describe", "hpa", "busy"), "resource cpu on pods", "ValidMetricFound")
}

// What the rules and dashboards of kubernetes-mixin ask of the server and of kubelets is there, under the labels by which they ask.
func TestMetricsForMonitoring(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: busybox, command: [sleep, "1000000"]}]}
`)
	s.ready("p")
	told := ""
	s.until([]string{"get", "--raw", "/metrics"}, "with the numbers of objects", func(r result) bool { // that are counted when somebody asks, for the next one
		told = r.stdout
		_, after, _ := strings.Cut(told, "\napiserver_resource_objects{group=\"\",resource=\"pods\"} ")
		number, _, _ := strings.Cut(after, "\n")
		n, err := strconv.Atoi(number)
		return err == nil && n > 0 // the one above is among them
	})
	contains(t, "metrics of the server", told, "\nkubernetes_build_info{", `git_version="v1.37.2+peapod"`, "\nscheduler_pending_pods{queue=\"unschedulable\"} ",
		"\nscheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} ", "\napiserver_resource_objects{group=\"apps\",resource=\"deployments\"} ",
		"\napiserver_storage_size_bytes{", "\nworkqueue_depth{name=\"deployment-controller\"} ")
	id := strings.TrimPrefix(s.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].containerID}"), "peapod://")
	image := s.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].image}")
	used := s.kubectl("get", "--raw", "/api/v1/nodes/"+strings.TrimSpace(s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))+"/proxy/metrics/cadvisor")
	contains(t, "metrics of the Pod's container", used, `image="`+image+`",name="`+id+`",namespace="`+s.name+`",pod="p"}`)
}
