package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// specify writes what devices are, into one of the directories that the runtime looks for that in.
func (n *node) specify(dir, file, content string) {
	n.t.Helper()
	dir = filepath.Join(n.dir, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// A container gets what its devices bring along: nodes that it may open, variables, mounts and hooks.
func TestClaimedDevices(t *testing.T) {
	n := newNode(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no /dev/fuse to give to a container")
	}
	pod := n.run(n.sandboxConfig("cdi"))
	told, library := filepath.Join(n.dir, "told"), filepath.Join(n.dir, "library")
	if err := os.WriteFile(library, []byte("of the driver"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Files that make no sense are another's trouble.
	n.specify("cdi-static", "broken.json", "{")
	n.specify("cdi-dynamic", "vendor.yaml", `
cdiVersion: 0.6.0
kind: vendor.example.com/gpu
containerEdits:
  env: [EVERY=device]
  hooks: [{hookName: createRuntime, path: /bin/busybox, args: [sh, -c, 'busybox cat > `+told+`']}]
devices:
- name: one
  containerEdits:
    env: [ONE=1]
    deviceNodes: [{path: /dev/gpu0, hostPath: /dev/fuse}]
    mounts: [{hostPath: `+library+`, containerPath: /lib/gpu/library, options: [ro, bind]}]
- name: two
  containerEdits: {env: [TWO=2]}
`)
	script := `echo "$EVERY $ONE $TWO"; cat /lib/gpu/library; echo; : < /dev/gpu0 && echo opened`
	config := shell("both", script)
	config.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example.com/gpu=one"}}
	config.Annotations = map[string]string{"cdi.k8s.io/client": "vendor.example.com/gpu=two,vendor.example.com/gpu=one"}
	if out, st := n.output(pod, config); out != "device 1 2\nof the driver\nopened\n" {
		t.Errorf("container with devices says %q, %v", out, st)
	}
	if state, err := os.ReadFile(told); err != nil || !strings.Contains(string(state), `"ociVersion"`) {
		t.Errorf("the hook was told %q, %v", state, err)
	}
	if out, _ := n.output(pod, shell("none", `echo "<$EVERY$ONE$TWO>"; ls /dev/gpu0 2>&1`)); !strings.HasPrefix(out, "<>\n") || !strings.Contains(out, "No such file") {
		t.Errorf("container without devices says %q", out)
	}
	// An exec is in the same surroundings.
	config = shell("long", "sleep 1000000")
	config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example.com/gpu=two"}}
	long := n.start(pod, config)
	if out := n.exec(long, "/bin/sh", "-c", "echo $TWO"); out != "2\n" {
		t.Errorf("exec says %q", out)
	}
	if out := n.exec(long, "/bin/cat", "/proc/self/environ"); !strings.HasSuffix(out, "\x00EVERY=device\x00TWO=2\x00HOME=/root\x00") {
		t.Errorf("variables are not in their order: %q", out)
	}

	// A later directory counts more, and each start looks anew.
	n.specify("cdi-static", "vendor.yaml", "{cdiVersion: 0.6.0, kind: vendor.example.com/gpu, devices: [{name: one, containerEdits: {env: [ONE=static]}}, {name: three, containerEdits: {env: [THREE=3]}}]}")
	config = shell("anew", `echo "$ONE $THREE"`)
	config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example.com/gpu=one"}, {Name: "vendor.example.com/gpu=three"}}
	if out, _ := n.output(pod, config); out != "1 3\n" {
		t.Errorf("container says %q", out)
	}
	for names, want := range map[string]string{
		"vendor.example.com/gpu=four":                             "CDI device injection failed: unresolvable CDI devices vendor.example.com/gpu=four",
		"vendor.example.com/gpu=one vendor.example.com/net=first": "unresolvable CDI devices vendor.example.com/net=first",
		"nonsense": "unresolvable CDI devices nonsense",
	} {
		config := shell("missing", "true")
		for _, name := range strings.Fields(names) {
			config.CDIDevices = append(config.CDIDevices, &runtimeapi.CDIDevice{Name: name})
		}
		if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", names, err, want)
		}
	}
	config = shell("annotated", "true")
	config.Annotations = map[string]string{"cdi.k8s.io/client": "nonsense"}
	if _, err := n.service.CreateContainer(n.ctx, pod, config, nil); err == nil || !strings.Contains(err.Error(), `invalid CDI device name "nonsense"`) {
		t.Errorf("annotation: %v", err)
	}
}

// What devices mount into a Pod with a user namespace has the owners that it has on the machine.
func TestClaimedDevicesOfMappedUsers(t *testing.T) {
	needUserNamespaces(t)
	n := newNode(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no /dev/fuse to give to a container")
	}
	library := filepath.Join(n.dir, "library")
	if err := os.WriteFile(library, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.specify("cdi-dynamic", "vendor.yaml", "{cdiVersion: 0.6.0, kind: vendor.example.com/gpu, devices: [{name: one, containerEdits: {deviceNodes: [{path: /dev/fuse}], mounts: [{hostPath: "+
		library+", containerPath: /library, options: [ro, bind]}]}}]}")
	pod := n.run(n.mapped("cdi"))
	config := inside(shell("one", "stat -c %u /library; ls /dev/fuse"))
	config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example.com/gpu=one"}}
	if out, st := n.output(pod, config); out != "0\n/dev/fuse\n" {
		t.Errorf("container says %q, %v", out, st)
	}
}
