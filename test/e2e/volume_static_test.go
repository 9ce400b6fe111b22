package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// volumeOnNode is a persistent volume for a claim of the space, made by hand as an administrator does.
func volumeOnNode(s *space, name, claim, path, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: %[2]s, name: %[3]s}
  local: {path: %[4]s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]}}
  %[5]s
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[3]s}
spec: {storageClassName: "", volumeName: %[1]s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
`, name, s.name, claim, path, more)
}

// A volume that was there before its claim: its data outlive the Pod, its group and mount options are the Pod's and its own,
// and a Pod that came too early is told and goes on when the claim is bound.
func TestVolumeMadeByHand(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	volume := s.name
	t.Cleanup(func() { s.try("delete", "pv", volume, "--wait=false") })
	const uses = `volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]
securityContext: {fsGroup: 4321}
`
	// Its node is named, so no scheduler waits for the claim.
	s.apply(script("early", "id -G > /d/groups; echo kept > /d/sub/file; sleep 1000000",
		uses+"nodeName: "+s.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")+"\ninitContainers: [{name: make, image: busybox, command: [mkdir, /d/sub], volumeMounts: [{name: d, mountPath: /d}]}]\n",
		"volumeMounts: [{name: d, mountPath: /d}]"))
	s.event("early", "FailedMount", `Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process volumes=[d]: error processing PVC `+
		s.name+`/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`)
	s.apply(volumeOnNode(s, volume, "data", disk, "mountOptions: [nosuid, nodev]"))
	s.ready("early")
	contains(t, "claim", s.kubectl("get", "pvc", "data"), "Bound")
	contains(t, "mount", s.kubectl("exec", "early", "-c", "main", "--", "grep", " /d ", "/proc/mounts"), "nosuid,nodev")
	contains(t, "groups", s.kubectl("exec", "early", "-c", "main", "--", "cat", "/d/groups"), "4321")
	s.kubectl("delete", "pod", "early", "--now")
	if b, err := os.ReadFile(filepath.Join(disk, "sub/file")); string(b) != "kept\n" {
		t.Fatalf("after the Pod its file is %q (%v)", b, err)
	}
	// Read-only, and only a part of it.
	s.apply(script("late", "cat /d/file; touch /d/new; echo touch $?; sleep 1000000",
		"volumes: [{name: d, persistentVolumeClaim: {claimName: data, readOnly: true}}]\n", "volumeMounts: [{name: d, mountPath: /d, subPath: sub}]"))
	s.ready("late")
	contains(t, "log", s.logged("^touch 1$", "late"), "kept\n")
}

// A container's variables come from a file that an init container wrote.
func TestVariablesFromAFile(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(script("reader", "echo got=$GOT none=${NONE-unset}; sleep 1000000", `volumes: [{name: v, emptyDir: {}}]
initContainers: [{name: writer, image: busybox, command: [sh, -c, "echo \"A='one two'\" > /v/env"], volumeMounts: [{name: v, mountPath: /v}]}]
`, `env:
- {name: GOT, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: A}}}
- {name: NONE, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: B, optional: true}}}
`))
	s.ready("reader")
	s.start("logs", "-f", "reader", "-c", "main").until("got=one two none=unset")
	s.apply(script("lost", "true", "volumes: [{name: v, emptyDir: {}}]\n",
		"env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: A}}}]"))
	contains(t, "message", s.waiting("lost", "main", "CreateContainerConfigError"), `couldn't read env file "env" of volume "v"`)
}
