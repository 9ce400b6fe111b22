package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/watch"

	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/test/e2e/cluster"
	"github.com/peapod/peapod/test/images/csidriver/driver"
)

const disks = "disks.example.com"

// driverPods is the driver as charts install it: a DaemonSet with the kubelet's directories, where it mounts volumes, and a class.
const driverPods = `apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: disks.example.com}
spec: {attachRequired: true, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral], tokenRequests: [{audience: vault}]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: disks}
provisioner: disks.example.com
allowVolumeExpansion: true
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: disks}
spec:
  selector: {matchLabels: {app: disks}}
  template:
    metadata: {labels: {app: disks}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: driver
        image: csidriver:1.0
        args: [-name=disks.example.com, -node=$(NODE), -kubelet=KUBELET, -max-volumes=3]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {privileged: true, runAsUser: 0}
        volumeMounts:
        - {name: registry, mountPath: KUBELET/plugins_registry}
        - {name: plugins, mountPath: KUBELET/plugins, mountPropagation: Bidirectional}
        - {name: pods, mountPath: KUBELET/pods, mountPropagation: Bidirectional}
        - {name: dev, mountPath: /dev}
      volumes:
      - {name: registry, hostPath: {path: KUBELET/plugins_registry, type: DirectoryOrCreate}}
      - {name: plugins, hostPath: {path: KUBELET/plugins, type: DirectoryOrCreate}}
      - {name: pods, hostPath: {path: KUBELET/pods, type: DirectoryOrCreate}}
      - {name: dev, hostPath: {path: /dev, type: Directory}}
`

// newDisks starts a cluster with the driver, and what plays its sidecars.
func newDisks(t *testing.T) (*own, *space) {
	t.Helper()
	kubelet := ""
	c, err := cluster.Start(t.Context(), cluster.Config{Prepare: func(dataDir string) error {
		// Mounts made in a container reach the machine only where it shares them, as machines with systemd do.
		kubelet = filepath.Join(dataDir, "kubelet")
		if err := os.MkdirAll(kubelet, 0o750); err != nil {
			return err
		}
		if err := unix.Mount(kubelet, kubelet, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", kubelet, "", unix.MS_SHARED, ""); err != nil {
			return err
		}
		return shared.registry.Mirror(dataDir)
	}})
	if c != nil {
		t.Cleanup(func() { uninstallFrom(t, c, kubelet) })
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &own{Cluster: c, t: t, client: clientOf(t, c)}
	s := newSpaceOn(t, c, o.client)
	s.control(t.Context())
	s.awaitCSINode(0) // a node without drivers says so
	s.apply(strings.ReplaceAll(driverPods, "KUBELET", kubelet))
	s.awaitCSINode(1)
	return o, s
}

// uninstallFrom ends a cluster that has something mounted on a directory, which is not its own: uninstalling leaves that, and nothing in it.
func uninstallFrom(t *testing.T, c *cluster.Cluster, mounted string) {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if out, err := c.Run("uninstall", "--yes"); err != nil {
		t.Errorf("uninstall: %v\n%s", err, out)
	}
	if left, err := os.ReadDir(mounted); err != nil || len(left) > 0 {
		t.Errorf("%s has %v, %v", mounted, left, err)
	}
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Error(err)
	}
	uninstall(t, c)
}

// control plays the driver's sidecars until the test ends, or its server.
func (s *space) control(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := driver.Control(ctx, s.client, disks); err != nil {
			s.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	s.t.Cleanup(stop)
	return stop
}

// until waits for an object of which ok is true.
func until[T any](s *space, what string, lw cache.ListerWatcher, ok func(T) bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var object apiwatch.Event
	check := func(e apiwatch.Event) (bool, error) {
		o, is := any(e.Object).(T)
		object = e
		return is && ok(o), nil
	}
	if _, err := watch.UntilWithSync(ctx, lw, nil, nil, check); err != nil {
		s.t.Fatalf("%s: %v; last: %+v", what, err, object.Object)
	}
}

func (s *space) awaitCSINode(drivers int) {
	s.t.Helper()
	lw := cache.NewListWatchFromClient(s.client.StorageV1().RESTClient(), "csinodes", "", fields.Everything())
	until(s, "CSINode", lw, func(n *storagev1.CSINode) bool { return len(n.Spec.Drivers) == drivers })
}

// awaitAttached waits until as many volumes are attached to the node, and in use there.
func (s *space) awaitAttached(number int) {
	s.t.Helper()
	lw := cache.NewListWatchFromClient(s.client.CoreV1().RESTClient(), "nodes", "", fields.Everything())
	until(s, "volumes of the node", lw, func(n *corev1.Node) bool {
		return len(n.Status.VolumesAttached) == number && len(n.Status.VolumesInUse) == number
	})
}

func diskClaim(name, more string) string {
	return strings.Replace(claimOf(name), "spec: {", "spec: {storageClassName: disks, "+more, 1)
}

// volumesMounted are the mounts of drivers on the node.
func (o *own) volumesMounted() (out []string) {
	o.t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		o.t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if path := strings.Fields(line)[4]; strings.HasPrefix(path, o.Instance.DataDir) && strings.Contains(path, "kubernetes.io") && strings.Contains(path, "csi") {
			out = append(out, path)
		}
	}
	return out
}

// A claim on a driver's class works as on any cluster: made for the node of its first Pod, attached, mounted, kept for the next Pod,
// through restarts of the server, and detached when nobody needs it.
func TestCSIClaim(t *testing.T) {
	t.Parallel()
	o, s := newDisks(t)
	s.apply(diskClaim("data", "") + claiming("writer", "data", "echo kept > /data/file && sleep 1000000"))
	s.ready("writer")
	s.event("data", "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '"+disks+"'")
	volume := s.kubectl("get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
	s.event("writer", "SuccessfulAttachVolume", `AttachVolume.Attach succeeded for volume "`+volume+`"`)
	node := s.kubectl("get", "pod", "writer", "-o", "jsonpath={.spec.nodeName}")
	attachment := csiname.Attachment("handle-of-"+volume, disks, node)
	equal(t, "attachment", columns(s.kubectl("get", "volumeattachment", attachment, "--no-headers"), 5), attachment+" "+disks+" "+volume+" "+node+" true")
	equal(t, "drivers of the node", columns(s.kubectl("get", "csinode", node, "--no-headers"), 2), node+" 1")
	s.awaitAttached(1)
	s.kubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	s.event("writer", "FileSystemResizeSuccessful", `MountVolume.NodeExpandVolume succeeded for volume "`+volume+`" `+node)
	s.kubectl("wait", "pvc/data", "--for=jsonpath={.status.capacity.storage}=2Gi", "--timeout=120s")
	equal(t, "size", s.kubectl("exec", "writer", "--", "cat", "/data/size"), "2147483648")
	contains(t, "mounts", strings.Join(o.volumesMounted(), " "), "globalmount", "kubernetes.io~csi/"+volume+"/mount")

	// The server is killed, and the Pod is deleted while it is away from its driver.
	if err := o.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := o.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, mount := range o.volumesMounted() {
		if text, err := os.ReadFile(filepath.Join(mount, "file")); string(text) != "kept\n" {
			t.Errorf("after the kill %s has %q, %v", mount, text, err)
		}
	}
	s.kubectl("delete", "pod", "writer", "--now")
	s.awaitAttached(0)
	if left := o.volumesMounted(); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}

	s.apply(claiming("reader", "data", "sleep 1000000"))
	s.ready("reader")
	equal(t, "file of the next Pod", s.kubectl("exec", "reader", "--", "cat", "/data/file"), "kept\n")
	s.kubectl("delete", "pod", "reader", "--now")
	s.awaitAttached(0)
	s.kubectl("delete", "pvc", "data")
	s.kubectl("delete", "daemonset", "disks")
	s.awaitCSINode(0)
}

// Devices, inline volumes, and ephemeral claims of a driver.
func TestCSIKindsOfVolumes(t *testing.T) {
	t.Parallel()
	o, s := newDisks(t)
	s.apply(script("inline", "sleep 1000000", "volumes: [{name: v, csi: {driver: "+disks+", volumeAttributes: {a: b}}}]\n", "volumeMounts: [{name: v, mountPath: /v}]") +
		script("wrong", "sleep 1000000", "volumes: [{name: v, csi: {driver: none.example.com}}]\n", "volumeMounts: [{name: v, mountPath: /v}]") +
		script("generic", "touch /v/file && sleep 1000000", "volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: disks, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}]\n",
			"volumeMounts: [{name: v, mountPath: /v}]"))
	s.ready("inline", "generic")
	s.event("wrong", "FailedMount", "driver name none.example.com not found in the list of registered CSI drivers")
	var told map[string]string
	if err := json.Unmarshal([]byte(s.kubectl("exec", "inline", "--", "cat", "/v/told")), &told); err != nil {
		t.Fatal(err)
	}
	const prefix = "csi.storage.k8s.io/"
	for key, want := range map[string]string{"a": "b", prefix + "pod.name": "inline", prefix + "pod.namespace": s.name, prefix + "ephemeral": "true", prefix + "serviceAccount.name": "default"} {
		equal(t, key, told[key], want)
	}
	var tokens map[string]struct{ Token string }
	if err := json.Unmarshal([]byte(told[prefix+"serviceAccount.tokens"]), &tokens); err != nil || strings.Count(tokens["vault"].Token, ".") != 2 {
		t.Errorf("tokens %q, %v", told[prefix+"serviceAccount.tokens"], err)
	}
	if _, err := os.Stat("/dev/loop-control"); err == nil {
		s.apply(diskClaim("raw", "volumeMode: Block, ") + script("block", "sleep 1000000", "volumes: [{name: d, persistentVolumeClaim: {claimName: raw}}]\n", "volumeDevices: [{name: d, devicePath: /dev/raw}]"))
		s.ready("block")
		equal(t, "device", s.kubectl("exec", "block", "--", "sh", "-c", "echo written > /dev/raw && head -c 7 /dev/raw"), "written")
		s.kubectl("delete", "pod", "block", "--now")
	}
	s.kubectl("delete", "pod", "inline", "wrong", "generic", "--now")
	s.awaitAttached(0)
	if left := o.volumesMounted(); len(left) > 0 {
		t.Errorf("left mounted: %v", left)
	}
}
