package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/peapod/peapod/test/e2e/cluster"
)

const zeros = "zeros.example.com"

// deviceDriver is a driver of devices as charts install it, and a class of them.
const deviceDriver = `apiVersion: v1
kind: ServiceAccount
metadata: {name: zeros}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: zeros}
rules:
- {apiGroups: [resource.k8s.io], resources: [resourceslices], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: [resource.k8s.io], resources: [resourceclaims], verbs: [get]}
- {apiGroups: [""], resources: [nodes], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: zeros}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: zeros}
subjects: [{kind: ServiceAccount, name: zeros, namespace: NAMESPACE}]
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: zeros}
spec: {selectors: [{cel: {expression: 'device.driver == "zeros.example.com"'}}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: zeros}
spec:
  selector: {matchLabels: {app: zeros}}
  template:
    metadata: {labels: {app: zeros}}
    spec:
      serviceAccountName: zeros
      terminationGracePeriodSeconds: 5
      containers:
      - name: driver
        image: dradriver:1.0
        args: [-name=zeros.example.com, -node=$(NODE), -kubelet=KUBELET, -cdi=CDI, -devices=2]
        env:
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        securityContext: {privileged: true, runAsUser: 0}
        volumeMounts:
        - {name: registry, mountPath: KUBELET/plugins_registry}
        - {name: plugins, mountPath: KUBELET/plugins}
        - {name: cdi, mountPath: CDI}
      volumes:
      - {name: registry, hostPath: {path: KUBELET/plugins_registry, type: DirectoryOrCreate}}
      - {name: plugins, hostPath: {path: KUBELET/plugins, type: DirectoryOrCreate}}
      - {name: cdi, hostPath: {path: CDI, type: DirectoryOrCreate}}
`

// deviceSpace is a namespace of a cluster whose node has devices.
type deviceSpace struct {
	*space
	own    *own
	driver string // manifest
	cdi    string // what the container runtime looks for devices in
	node   string
}

func newDevices(t *testing.T) *deviceSpace {
	t.Helper()
	cdi, err := os.MkdirTemp("", "cdi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(cdi) })
	c, err := cluster.Start(t.Context(), cluster.Config{Args: []string{"--cdi-spec-dirs=" + cdi}, Prepare: shared.registry.Mirror})
	if c != nil {
		t.Cleanup(func() { uninstall(t, c) })
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &own{Cluster: c, t: t, client: clientOf(t, c)}
	s := newSpaceOn(t, c, o.client)
	d := &deviceSpace{space: s, own: o, cdi: cdi, node: s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")}
	d.driver = strings.NewReplacer("NAMESPACE", s.name, "KUBELET", filepath.Join(c.Instance.DataDir, "kubelet"), "CDI", cdi).Replace(deviceDriver)
	s.apply(d.driver)
	d.awaitSlice()
	return d
}

// sliceWatcher watches the slices of the driver.
func (d *deviceSpace) sliceWatcher() cache.ListerWatcher {
	return cache.NewListWatchFromClient(d.client.ResourceV1().RESTClient(), "resourceslices", "", fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, zeros))
}

// awaitSlice waits until the driver says what the node has.
func (d *deviceSpace) awaitSlice() {
	d.t.Helper()
	until(d.space, "slice of the node", d.sliceWatcher(), func(s *resourcev1.ResourceSlice) bool {
		return s.Spec.NodeName != nil && *s.Spec.NodeName == d.node && len(s.Spec.Devices) == 2
	})
}

// prepared are the files of what the driver has prepared.
func (d *deviceSpace) prepared() (list []string) {
	d.t.Helper()
	entries, err := os.ReadDir(d.cdi)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// allocate gives a claim devices of the node, as a scheduler does, by request.
func (d *deviceSpace) allocate(claim string, devices ...string) {
	d.t.Helper()
	claims := d.client.ResourceV1().ResourceClaims(d.name)
	c, err := claims.Get(d.t.Context(), claim, metav1.GetOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{d.node}}}}}}}
	for i, device := range devices {
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{
			Request: c.Spec.Devices.Requests[i].Name, Driver: zeros, Pool: d.node, Device: device})
	}
	if _, err := claims.UpdateStatus(d.t.Context(), c, metav1.UpdateOptions{}); err != nil {
		d.t.Fatal(err)
	}
}

const twoZeros = `apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: pair}
spec: {devices: {requests: [{name: left, exactly: {deviceClassName: zeros}}, {name: right, exactly: {deviceClassName: zeros}}]}}
`

// claimingBoth is a Pod whose container both has the whole claim, one a request of it, and none nothing.
const claimingBoth = `apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: zeros, resourceClaimName: pair}]
  containers:
  - {name: both, image: busybox, command: [sh, -c, 'trap exit TERM; while :; do sleep 1; done'], resources: {claims: [{name: zeros}]}}
  - {name: one, image: busybox, command: [sleep, "1000000"], resources: {claims: [{name: zeros, request: right}]}}
  - {name: none, image: busybox, command: [sleep, "1000000"]}
`

// sees is what the containers of the Pod have of the devices.
func (d *deviceSpace) sees() (all []string) {
	d.t.Helper()
	for _, c := range []string{"both", "one", "none"} {
		all = append(all, c+":"+strings.TrimSpace(d.kubectl("exec", "user", "-c", c, "--", "sh", "-c", `echo "$DEVICE_0,$DEVICE_1" $(cd /dev && for d in claimed-*; do [ -c $d ] && echo $d $(head -c 3 $d | wc -c); done)`)))
	}
	return all
}

// told is what the kubelet tells monitors that the containers of a Pod have of devices.
func (d *deviceSpace) told(pod string) (all []string) {
	d.t.Helper()
	socket := filepath.Join(d.own.Instance.DataDir, "kubelet", "pod-resources", "kubelet.sock")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	got, err := podresourcesapi.NewPodResourcesListerClient(conn).Get(within(d.t, patience), &podresourcesapi.GetPodResourcesRequest{PodNamespace: d.name, PodName: pod}, grpc.WaitForReady(true))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range got.PodResources.Containers {
		var devices []string
		for _, claim := range c.DynamicResources {
			for _, r := range claim.ClaimResources {
				devices = append(devices, claim.ClaimName+"="+r.DeviceName)
				if r.DriverName != zeros || r.PoolName != d.node || len(r.CdiDevices) != 1 {
					d.t.Errorf("monitors see %v", r)
				}
			}
		}
		all = append(all, c.Name+":"+strings.Join(devices, ","))
	}
	return all
}

// A driver's devices come to the containers that claim them, through restarts of containers and of the server, and are given back when the
// Pod is gone: not before, though the driver is away.
func TestDevicesOfDriver(t *testing.T) {
	t.Parallel()
	d := newDevices(t)
	d.apply(twoZeros)
	d.allocate("pair", "device-0", "device-1")
	d.apply(strings.ReplaceAll(claimingBoth, "NODE", d.node))
	d.ready("user")
	want := []string{"both:left,right claimed-0 3 claimed-1 3", "one:,right claimed-1 3", "none:,"}
	if got := d.sees(); !slices.Equal(got, want) {
		t.Errorf("containers see %q, want %q", got, want)
	}
	told := []string{"both:pair=device-0,pair=device-1", "one:pair=device-1", "none:"}
	if got := d.told("user"); !slices.Equal(got, told) {
		t.Errorf("monitors see %q, want %q", got, told)
	}

	d.own.killServer()
	d.own.restart()
	d.own.awaitKubelet()
	// A Pod that comes after the restart shows that the kubelet knows those that were there.
	d.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec: {containers: [{name: c, image: peapod.local/hello:latest, imagePullPolicy: IfNotPresent}]}\n")
	d.ready("later")
	d.kubectl("exec", "user", "-c", "both", "--", "kill", "1")
	d.awaitPod("user", "has a new container", func(p *corev1.Pod) bool {
		i := slices.IndexFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "both" })
		return i >= 0 && p.Status.ContainerStatuses[i].RestartCount > 0 && p.Status.ContainerStatuses[i].State.Running != nil
	})
	if got := d.sees(); !slices.Equal(got, want) {
		t.Errorf("after a kill of the server containers see %q, want %q", got, want)
	}
	if got := d.told("user"); !slices.Equal(got, told) {
		t.Errorf("after a kill of the server monitors see %q, want %q", got, told)
	}
	d.awaitSlice()

	// Without the driver there are no devices to claim, and what was prepared cannot be given back.
	d.kubectl("delete", "daemonset", "zeros")
	until(d.space, "the slice is gone", d.sliceWatcher(), func(*resourcev1.ResourceSlice) bool { return true })
	d.kubectl("delete", "pod", "user", "--wait=false")
	d.awaitPod("user", "has ended", func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil && !slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
	})
	if got := d.prepared(); len(got) != 1 {
		t.Errorf("prepared is %v", got)
	}
	d.apply(d.driver)
	d.gone("user")
	if got := d.prepared(); len(got) > 0 {
		t.Errorf("not given back: %v", got)
	}
	d.kubectl("delete", "resourceclaim", "pair")
}

// A Pod that claims what it cannot have says why, and begins when that changes.
func TestDevicesThatAreNotThere(t *testing.T) {
	t.Parallel()
	d := newDevices(t)
	d.apply(twoZeros)
	d.kubectl("delete", "daemonset", "zeros", "--cascade=foreground")
	d.allocate("pair", "device-0", "device-1")
	d.apply(strings.ReplaceAll(claimingBoth, "NODE", d.node))
	d.event("user", "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver "+zeros+" is not registered")
	d.apply(d.driver)
	d.ready("user")
	d.kubectl("delete", "pod", "user", "--now")
	if got := d.prepared(); len(got) > 0 {
		t.Errorf("not given back: %v", got)
	}
}

// scheduled are a Pod that has a device by a template, and one that has it as an extended resource.
const scheduled = `apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: zero}
spec: {spec: {devices: {requests: [{name: any, firstAvailable: [{name: many, deviceClassName: zeros, count: 7}, {name: single, deviceClassName: zeros}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: templated}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: zero, resourceClaimTemplateName: zero}]
  initContainers: [{name: first, image: busybox, command: [sh, -c, 'ls /dev/claimed-*'], resources: {claims: [{name: zero, request: any}]}}]
  containers: [{name: app, image: busybox, command: [sleep, "1000000"], resources: {claims: [{name: zero, request: any}]}}]
---
apiVersion: v1
kind: Pod
metadata: {name: extended}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: busybox, command: [sleep, "1000000"], resources: {limits: {example.com/zero: 1}}}]
`

// From a template, or a number of an extended resource, to the device node in the container: nobody but the Pods' user does anything.
func TestDevicesOfScheduledPods(t *testing.T) {
	t.Parallel()
	d := newDevices(t)
	d.kubectl("patch", "deviceclass", "zeros", "--type=merge", "-p", `{"spec":{"extendedResourceName":"example.com/zero"}}`)
	d.apply(scheduled)
	d.ready("templated", "extended")
	var seen []string
	for _, pod := range []string{"templated", "extended"} {
		seen = append(seen, strings.TrimSpace(d.kubectl("exec", pod, "-c", "app", "--", "sh", "-c", "cd /dev && ls claimed-*")))
	}
	slices.Sort(seen)
	if want := []string{"claimed-0", "claimed-1"}; !slices.Equal(seen, want) {
		t.Errorf("pods see %q, want %q", seen, want)
	}
	contains(t, "request", d.kubectl("exec", "templated", "-c", "app", "--", "env"), "=any/single")
	contains(t, "init container", d.kubectl("logs", "templated", "-c", "first"), "/dev/claimed-")
	// The driver does not tell of its devices' health.
	contains(t, "health", d.kubectl("get", "pod", "templated", "-o", "jsonpath={.status.containerStatuses[0].allocatedResourcesStatus}"),
		`"name":"claim:zero/any"`, `"health":"Unknown"`, `"resourceID":"zeros.example.com/device=`)
	d.apply(strings.ReplaceAll(scheduled[strings.LastIndex(scheduled, "---"):], "extended", "late"))
	d.event("late", "FailedScheduling", "0/1 nodes are available")
	d.kubectl("delete", "pod", "templated")
	d.ready("late")
	d.kubectl("delete", "pod", "extended", "late")
	if got := d.prepared(); len(got) > 0 {
		t.Errorf("not given back: %v", got)
	}
}

// maintenance taints one of the devices, with an effect.
const maintenance = `apiVersion: resource.k8s.io/v1
kind: DeviceTaintRule
metadata: {name: maintenance}
spec: {deviceSelector: {driver: zeros.example.com}, taint: {key: example.com/maintenance, value: planned, effect: EFFECT}}
`

// A rule that taints devices is tried first, then ends the Pod that has one, which gives it back; and no other gets it until the rule goes.
func TestTaintedDevicesEndPods(t *testing.T) {
	t.Parallel()
	d := newDevices(t)
	d.apply(scheduled)
	d.ready("templated")
	d.apply(strings.ReplaceAll(maintenance, "EFFECT", "None"))
	d.kubectl("wait", "devicetaintrule/maintenance", "--for=jsonpath={.status.conditions[0].reason}=NoEffect", "--timeout=120s")
	contains(t, "report", d.kubectl("get", "devicetaintrule", "maintenance", "-o", "jsonpath={.status.conditions[0].message}"),
		"2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace")
	contains(t, "table", d.kubectl("get", "devicetaintrules"), "example.com/maintenance   planned   None")
	d.apply(strings.ReplaceAll(maintenance, "EFFECT", "NoExecute"))
	d.event("templated", "DeviceTaintManagerEviction", "Marking for deletion")
	d.gone("templated")
	if got := d.prepared(); len(got) > 0 {
		t.Errorf("not given back: %v", got)
	}
	d.apply(strings.ReplaceAll(scheduled[:strings.LastIndex(scheduled, "---")], "name: templated", "name: late"))
	d.event("late", "FailedScheduling", "0/1 nodes are available")
	d.kubectl("delete", "devicetaintrule", "maintenance")
	d.ready("late")
	d.kubectl("delete", "pod", "late")
}
