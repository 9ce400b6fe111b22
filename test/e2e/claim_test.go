package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// claimOf is a claim on the default class.
func claimOf(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n---\n", name)
}

// claiming is a Pod that has a claim at /data and runs a script; the user is not root.
func claiming(name, claim, text string) string {
	return script(name, text, "securityContext: {runAsUser: 1000}\nvolumes: [{name: d, persistentVolumeClaim: {claimName: "+claim+"}}]\n",
		"volumeMounts: [{name: d, mountPath: /data}]")
}

// volumeOf is the name of a claim's volume, and its directory.
func (s *space) volumeOf(claim string) (name, dir string) {
	s.t.Helper()
	name = s.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	return name, filepath.Join(s.cluster.Instance.DataDir, "volumes", name)
}

// removed waits until a volume is gone, and fails the test if its directory is not.
func (s *space) removed(volume, dir string) {
	s.t.Helper()
	s.kubectl("wait", "--for=delete", "pv/"+volume, "--timeout=120s")
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		s.t.Errorf("the volume is gone and its directory is not: %v", err)
	}
}

// columns is a row of what kubectl shows, without the age at its end.
func columns(row string, n int) string {
	f := strings.Fields(row)
	return strings.Join(f[:min(n, len(f))], " ")
}

func TestExampleStorage(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("apply", "-f", examples+"storage.yaml")
		s.ready("storage")
		s.kubectl("exec", "storage", "--", "sh", "-c", "echo kept > /var/www/html/index.html")
		equal(s.t, "page", s.httpGet("storage", 80, "/"), "kept\n")
		equal(s.t, "secret", s.kubectl("exec", "storage", "--", "cat", "/etc/secrets/password"), "s3cret")
		volume, dir := s.volumeOf("storage-data")
		equal(s.t, "class", columns(s.kubectl("get", "sc", "local-path", "--no-headers"), 6), "local-path (default) peapod.io/local-path Delete WaitForFirstConsumer true")
		equal(s.t, "claim", columns(s.kubectl("get", "pvc", "storage-data", "--no-headers"), 7), "storage-data Bound "+volume+" 1Gi RWO local-path <unset>")
		equal(s.t, "volume", columns(s.kubectl("get", "pv", volume, "--no-headers"), 7), volume+" 1Gi RWO Delete Bound "+s.name+"/storage-data local-path")
		contains(s.t, "description", s.kubectl("describe", "pv", volume), "Type:  LocalVolume", dir, "kubernetes.io/hostname in [", "pv.kubernetes.io/provisioned-by: peapod.io/local-path")
		contains(s.t, "description", s.kubectl("describe", "pvc", "storage-data"), "Used By:       storage", "persistentvolume-controller", "peapod.io/local-path")
		// The page outlives its Pod.
		s.kubectl("delete", "pod", "storage", "--now")
		s.kubectl("apply", "-f", examples+"storage.yaml")
		s.ready("storage")
		equal(s.t, "page of the next Pod", s.httpGet("storage", 80, "/"), "kept\n")
		s.kubectl("delete", "-f", examples+"storage.yaml", "--now")
		s.removed(volume, dir)
	})
}

// A claim waits for its first Pod, and is kept while one uses it, though it be deleted.
func TestClaimInUse(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(claimOf("data"))
	s.event("data", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	equal(t, "claim", columns(s.kubectl("get", "pvc", "data", "--no-headers"), 3), "data Pending local-path")
	s.apply(claiming("writer", "data", "echo kept > /data/file && sleep 1000000"))
	s.ready("writer")
	s.event("data", "Provisioning", `External provisioner is provisioning volume for claim "`+s.name+`/data"`)
	s.event("data", "ProvisioningSucceeded", "Successfully provisioned volume pvc-")
	volume, dir := s.volumeOf("data")
	s.kubectl("delete", "pvc", "data", "--wait=false")
	equal(t, "claim", columns(s.kubectl("get", "pvc", "data", "--no-headers"), 3), "data Terminating "+volume)
	// No other Pod gets it now.
	s.apply(claiming("late", "data", "sleep 1000000"))
	s.event("late", "FailedScheduling", `persistentvolumeclaim "data" is being deleted`)
	equal(t, "file", s.kubectl("exec", "writer", "--", "cat", "/data/file"), "kept\n")
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Errorf("the file is not in the volume's directory: %v", err)
	}
	s.kubectl("delete", "pod", "writer", "--now")
	s.kubectl("wait", "--for=delete", "pvc/data", "--timeout=120s")
	s.removed(volume, dir)
}

// A class of volume attributes is kept while a claim names it, though it be deleted.
func TestAttributesInUse(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	class := s.name + "-gold" // it is the cluster's, not the namespace's
	s.apply("apiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {name: " + class + "}\n" +
		"driverName: disk.example.com\nparameters: {iops: \"5000\"}\n---\n" +
		strings.Replace(claimOf("data"), "spec: {", "spec: {storageClassName: '', volumeAttributesClassName: "+class+", ", 1))
	equal(t, "class", columns(s.kubectl("get", "vac", class, "--no-headers"), 2), class+" disk.example.com")
	s.kubectl("delete", "vac", class, "--wait=false")
	equal(t, "finalizers", s.kubectl("get", "vac", class, "-o", "jsonpath={.metadata.finalizers[*]}"), "kubernetes.io/vac-protection")
	s.kubectl("delete", "pvc", "data")
	s.kubectl("wait", "--for=delete", "vac/"+class, "--timeout=120s")
}

// What the user wants to keep is kept, and can be had again.
func TestVolumeIsRetained(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(claimOf("data") + claiming("writer", "data", "echo kept > /data/file && sleep 1000000"))
	s.ready("writer")
	volume, dir := s.volumeOf("data")
	t.Cleanup(func() {
		s.try("delete", "pv", volume, "--wait=false")
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.kubectl("patch", "pv", volume, "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`)
	s.kubectl("delete", "pod/writer", "pvc/data", "--now")
	s.kubectl("wait", "--for=jsonpath={.status.phase}=Released", "pv/"+volume, "--timeout=60s")
	// For that claim alone: other tests' claims would do with a free volume too.
	s.kubectl("patch", "pv", volume, "-p", `{"spec":{"claimRef":{"name":"again","uid":null,"resourceVersion":null}}}`)
	s.kubectl("wait", "--for=jsonpath={.status.phase}=Available", "pv/"+volume, "--timeout=60s")
	s.apply(strings.Replace(claimOf("again"), "spec: {", "spec: {volumeName: "+volume+", ", 1) + claiming("reader", "again", "cat /data/file; sleep 1000000"))
	s.ready("reader")
	equal(t, "file", s.logged("^kept$", "reader"), "kept\n")
	again, _ := s.volumeOf("again")
	equal(t, "volume", again, volume)
}

func TestClaimsThatCannotBeMet(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(strings.Replace(claimOf("shared"), "ReadWriteOnce", "ReadWriteMany", 1) + claiming("one", "shared", "sleep 1000000"))
	s.event("shared", "ProvisioningFailed", `failed to provision volume with StorageClass "local-path": access mode ReadWriteMany is not supported`)
	class := s.name + "-fixed" // it is the cluster's, not the namespace's
	s.apply("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: " + class + "}\n" +
		"provisioner: peapod.io/local-path\nvolumeBindingMode: WaitForFirstConsumer\n---\n" +
		strings.Replace(claimOf("small"), "spec: {", "spec: {storageClassName: "+class+", ", 1) + claiming("two", "small", "sleep 1000000"))
	t.Cleanup(func() { s.try("delete", "sc", class) })
	s.ready("two")
	s.fails([]string{"patch", "pvc", "small", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`},
		"only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	s.apply(claiming("three", "missing", "sleep 1000000"))
	s.event("three", "FailedScheduling", `persistentvolumeclaim "missing" not found`)
}

// A claim of the default class grows while its Pod runs: the class that a new cluster has allows it, and the provisioner may do all that
// it takes. It does not shrink.
func TestAClaimGrows(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(claimOf("data") + claiming("user", "data", "sleep 1000000"))
	s.ready("user")
	volume, _ := s.volumeOf("data")
	size := func(amount string) []string {
		return []string{"patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"` + amount + `"}}}}`}
	}
	s.kubectl(size("2Gi")...)
	s.kubectl("wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/data", "--timeout=60s")
	equal(t, "capacity of the volume", s.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.capacity.storage}"), "2Gi")
	s.event("data", "Resizing", "External resizer is resizing volume "+volume)
	s.event("data", "VolumeResizeSuccessful", "Resize volume succeeded")
	equal(t, "what is under way", s.kubectl("get", "pvc", "data", "-o", "jsonpath={.status.allocatedResourceStatuses}{.status.conditions}"), "")
	s.fails(size("1Gi"), "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity")
}

const claimingStatefulSet = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: %s}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: db
        image: busybox
        command: [sh, -c, "hostname >> /data/starts; sleep 1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// Each Pod of a StatefulSet finds its own data again, unless the set says that they go with it.
func TestStatefulSetWithClaims(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(fmt.Sprintf(claimingStatefulSet, "Retain"))
	s.ready("db-0", "db-1")
	volume, dir := s.volumeOf("data-db-1")
	s.kubectl("scale", "statefulset/db", "--replicas=1")
	s.gone("db-1")
	equal(t, "claim of the Pod that is gone", columns(s.kubectl("get", "pvc", "data-db-1", "--no-headers"), 2), "data-db-1 Bound")
	s.kubectl("scale", "statefulset/db", "--replicas=2")
	s.ready("db-1")
	equal(t, "starts", s.kubectl("exec", "db-1", "--", "cat", "/data/starts"), "db-1\ndb-1\n")
	equal(t, "starts", s.kubectl("exec", "db-0", "--", "cat", "/data/starts"), "db-0\n")
	s.apply(fmt.Sprintf(claimingStatefulSet, "Delete"))
	s.kubectl("scale", "statefulset/db", "--replicas=1")
	s.kubectl("wait", "--for=delete", "pvc/data-db-1", "--timeout=120s")
	s.removed(volume, dir)
	volume, dir = s.volumeOf("data-db-0")
	s.kubectl("delete", "statefulset/db")
	s.removed(volume, dir)
}

// A generic ephemeral volume comes and goes with its Pod.
func TestGenericEphemeralVolume(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("scratch", "echo mine > /data/file && cat /data/file; sleep 1000000",
		"volumes: [{name: d, ephemeral: {volumeClaimTemplate: {metadata: {labels: {for: scratch}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]\n",
		"volumeMounts: [{name: d, mountPath: /data}]"))
	s.ready("scratch")
	equal(t, "log", s.logged("^mine$", "scratch"), "mine\n")
	equal(t, "claims", s.kubectl("get", "pvc", "-l", "for=scratch", "-o", "name"), "persistentvolumeclaim/scratch-d\n")
	volume, dir := s.volumeOf("scratch-d")
	s.kubectl("delete", "pod", "scratch", "--now")
	s.removed(volume, dir)
	equal(t, "claims", s.kubectl("get", "pvc", "-o", "name"), "")
}

// What is deleted while the server is away is removed when it is back, and what Pods wrote before is there after a crash.
func TestClaimsAndACrash(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(claimOf("data") + claiming("writer", "data", "echo kept > /data/file && sleep 1000000"))
	s.ready("writer")
	volume, dir := s.volumeOf("data")
	o.killServer()
	o.restart()
	o.awaitKubelet()
	equal(t, "file", s.kubectl("exec", "writer", "--", "cat", "/data/file"), "kept\n")
	s.kubectl("delete", "pod", "writer", "--now")
	s.kubectl("delete", "pvc", "data", "--wait=false")
	o.killServer() // wherever it has come to
	o.restart()
	s.removed(volume, dir)
	// The class is the user's.
	s.kubectl("delete", "sc", "local-path")
	o.killServer()
	o.restart()
	equal(t, "classes", s.kubectl("get", "sc", "-o", "name"), "")
}
