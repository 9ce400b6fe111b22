package criconfig

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// world holds the objects that environments refer to.
type world struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
	services   map[string][]*v1.Service // by namespace
}

func (w world) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if d, ok := w.configMaps[name]; ok {
		return &v1.ConfigMap{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (w world) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if d, ok := w.secrets[name]; ok {
		return &v1.Secret{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func (w world) Services(namespace string) ([]*v1.Service, error) { return w.services[namespace], nil }

func parse(t *testing.T, doc string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
		t.Fatal(err)
	}
	if p.Name == "" {
		p.Name = "p"
	}
	p.Namespace, p.UID = "ns", "u1"
	return p
}

func service(name, ip string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func someWorld() world {
	return world{
		configMaps: map[string]map[string]string{"cm": {"a": "1", "b": "from cm", "sp ace": "x", "bad=name": "y"}},
		secrets:    map[string]map[string][]byte{"s": {"b": []byte("from secret")}},
		services: map[string][]*v1.Service{
			"default": {service("kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443}), service("other", "10.96.0.9", v1.ServicePort{Port: 1})},
			"ns":      {service("my-db", "10.96.0.2", v1.ServicePort{Port: 5432}, v1.ServicePort{Name: "ui", Port: 80, Protocol: v1.ProtocolUDP}), service("head", "None", v1.ServicePort{Port: 1})},
		},
	}
}

func TestEnvironment(t *testing.T) {
	p := parse(t, `
metadata: {name: p, labels: {app: x}, annotations: {note: y}}
spec:
  nodeName: n1
  serviceAccountName: sa
  containers:
  - name: c
    resources: {limits: {memory: 64Mi}, requests: {cpu: 250m}}
    envFrom:
    - {configMapRef: {name: cm}, prefix: P_}
    - {secretRef: {name: s}}
    - {secretRef: {name: nothing, optional: true}}
    env:
    - {name: FIRST, value: one}
    - {name: SECOND, value: "$(FIRST) $(b) $$(FIRST) $(NOBODY) $(MY_DB_SERVICE_HOST) $("}
    - {name: FIRST, value: "again $(FIRST)"}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: cm, key: a}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: cm, key: no, optional: true}}}
    - {name: CPUS, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
    - {name: CPUM, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
`)
	e, err := BuildEnv(t.Context(), &EnvInput{
		Pod: p, Container: &p.Spec.Containers[0], PodIPs: []string{"10.0.0.5"}, HostIPs: []string{"192.0.2.1", "2001:db8::1"},
		Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}, Objects: someWorld(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"P_a": "1", "b": "from secret", "P_sp ace": "x", "FIRST": "again one",
		"SECOND": "one from secret $(FIRST) $(NOBODY) 10.96.0.2 $(", "NAME": "p", "LABEL": "x", "IP": "10.0.0.5",
		"HOSTS": "192.0.2.1,2001:db8::1", "KEY": "1", "CPUS": "1", "CPUM": "250", "MEM": "64", "LIMIT": "2",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "MY_DB_PORT": "tcp://10.96.0.2:5432",
		"MY_DB_PORT_80_UDP_PROTO": "udp", "MY_DB_SERVICE_PORT": "5432",
	} {
		if got, ok := e.Map[name]; !ok || got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"ABSENT", "OTHER_SERVICE_HOST", "HEAD_SERVICE_HOST", "P_bad=name"} {
		if v, ok := e.Map[name]; ok {
			t.Errorf("%s = %q, should not be there", name, v)
		}
	}
	if len(e.Skipped) != 1 || !strings.Contains(e.Skipped[0], "P_bad=name") {
		t.Errorf("skipped %q", e.Skipped)
	}
	if len(e.Vars) != len(e.Map) {
		t.Errorf("%d variables, %d names", len(e.Vars), len(e.Map))
	}
}

func TestEnvironmentErrors(t *testing.T) {
	for from, want := range map[string]string{
		"configMapKeyRef: {name: none, key: a}":        `configmap "none" not found`,
		"configMapKeyRef: {name: cm, key: none}":       "couldn't find key none in ConfigMap ns/cm",
		"secretKeyRef: {name: s, key: none}":           "couldn't find key none in Secret ns/s",
		"fieldRef: {fieldPath: spec.nothing}":          "unsupported fieldPath: spec.nothing",
		"resourceFieldRef: {resource: limits.nothing}": "unsupported container resource : limits.nothing",
		"fileKeyRef: {volumeName: v, path: x, key: y}": `couldn't read env file "x" of volume "v": file does not exist`,
	} {
		p := parse(t, fmt.Sprintf("spec: {containers: [{name: c, env: [{name: X, valueFrom: {%s}}]}]}", from))
		_, err := BuildEnv(t.Context(), &EnvInput{Pod: p, Container: &p.Spec.Containers[0], Objects: someWorld(),
			File: func(string, string) ([]byte, error) { return nil, fs.ErrNotExist }})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", from, err, want)
		}
	}
}

func testNode() *Node {
	return &Node{
		Name: "n1", HostIPs: []string{"192.0.2.1"}, ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", LogDir: "/logs",
		HostResolv:     Resolv{Servers: []string{"127.0.0.53", "192.0.2.53"}, Searches: []string{"corp.example"}, Options: []string{"edns0"}},
		MemoryCapacity: 1 << 30, SeccompDefault: true, SeccompProfileRoot: "/profiles",
	}
}

func TestDNS(t *testing.T) {
	cluster := "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:5"
	for spec, want := range map[string]string{
		"{}":                        cluster,
		"{dnsPolicy: ClusterFirst}": cluster,
		"{dnsPolicy: ClusterFirst, hostNetwork: true}":            "127.0.0.53 192.0.2.53 | corp.example | edns0",
		"{dnsPolicy: ClusterFirstWithHostNet, hostNetwork: true}": cluster,
		"{dnsPolicy: Default}":                                    "192.0.2.53 | corp.example | edns0",
		"{dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1], searches: [a], options: [{name: ndots, value: '2'}]}}": "1.1.1.1 | a | ndots:2",
		"{dnsConfig: {nameservers: [1.1.1.1, 10.96.0.10], options: [{name: ndots, value: '1'}, {name: use-vc}]}}":     "10.96.0.10 1.1.1.1 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:1 use-vc",
		"{dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}}":                           "1.1.1.1 1.1.1.2 1.1.1.3 |  | ",
	} {
		got, _ := DNS(parse(t, "spec: "+spec), testNode())
		if text := strings.Join(got.Servers, " ") + " | " + strings.Join(got.Searches, " ") + " | " + strings.Join(got.Options, " "); text != want {
			t.Errorf("%s:\n got %s\nwant %s", spec, text, want)
		}
	}
}

// testUsers is a user namespace of a Pod's own.
var testUsers = &runtimeapi.UserNamespace{
	Mode: runtimeapi.NamespaceMode_POD, Uids: []*runtimeapi.IDMapping{{HostId: 131072, Length: 65536}}, Gids: []*runtimeapi.IDMapping{{HostId: 131072, Length: 65536}},
}

func TestSandbox(t *testing.T) {
	p := parse(t, `
metadata: {name: p, labels: {app: x}}
spec:
  hostname: h
  subdomain: sub
  setHostnameAsFQDN: true
  shareProcessNamespace: true
  securityContext: {fsGroup: 7, supplementalGroups: [8], runAsUser: 1000, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]}
  containers:
  - name: c
    resources: {requests: {cpu: 500m}, limits: {memory: 64Mi}}
    ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081, hostIP: 127.0.0.1, protocol: UDP}]
`)
	cfg, _, err := Sandbox(p, 2, testNode(), "/x/pod", testUsers)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Hostname != "h.sub.ns.svc.cluster.local" || cfg.LogDirectory != "/logs/ns_p_u1" || cfg.Metadata.Attempt != 2 || cfg.Linux.CgroupParent != "/x/pod" {
		t.Errorf("config %+v", cfg)
	}
	if len(cfg.PortMappings) != 1 || cfg.PortMappings[0].HostPort != 8081 || cfg.PortMappings[0].Protocol != runtimeapi.Protocol_UDP {
		t.Errorf("ports %v", cfg.PortMappings)
	}
	sc := cfg.Linux.SecurityContext
	if sc.NamespaceOptions.Pid != runtimeapi.NamespaceMode_POD || !slices.Equal(sc.SupplementalGroups, []int64{7, 8}) || sc.RunAsUser.Value != 1000 {
		t.Errorf("security %+v", sc)
	}
	if cfg.Labels[LabelPodUID] != "u1" || cfg.Labels["app"] != "x" || cfg.Linux.Resources.CpuShares != 512 || cfg.Linux.Sysctls["net.ipv4.ip_unprivileged_port_start"] != "0" {
		t.Errorf("labels %v, resources %v", cfg.Labels, cfg.Linux.Resources)
	}
	if sc.NamespaceOptions.UsernsOptions != testUsers {
		t.Errorf("user namespace %v", sc.NamespaceOptions.UsernsOptions)
	}
	long := parse(t, "metadata: {name: "+strings.Repeat("a", 62)+".b.c}")
	if cfg, _, err := Sandbox(long, 0, testNode(), "", nil); err != nil || cfg.Hostname != strings.Repeat("a", 62) {
		t.Errorf("hostname %v, %v", cfg.GetHostname(), err)
	}
}

func TestContainer(t *testing.T) {
	p := parse(t, `
spec:
  terminationGracePeriodSeconds: 9
  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroupsPolicy: Strict, seccompProfile: {type: Localhost, localhostProfile: p.json}}
  containers:
  - name: c
    image: img
    command: [sh, -c, "echo $(A) $(B) $$(A)"]
    workingDir: /w
    tty: true
    stdin: true
    resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {cpu: "1", memory: 512Mi, hugepages-2Mi: 4Mi}}
    securityContext:
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      procMount: Unmasked
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
    lifecycle: {stopSignal: SIGUSR1, preStop: {sleep: {seconds: 3}}}
`)
	c := &p.Spec.Containers[0]
	cfg, err := Container(&ContainerInput{Pod: p, Container: c, Hash: "h", RestartCount: 3, Round: 2, ImageRef: "sha256:1", Env: &Env{Map: map[string]string{"A": "x"}}}, testNode())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(cfg.Command, " ") != "sh -c echo x $(B) $(A)" || cfg.LogPath != "c/3.log" || cfg.Metadata.Attempt != 3 || cfg.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("config %+v", cfg)
	}
	sc := cfg.Linux.SecurityContext
	if sc.RunAsUser.Value != 0 || sc.RunAsGroup.Value != 3000 || !sc.NoNewPrivs || !sc.ReadonlyRootfs || len(sc.MaskedPaths)+len(sc.ReadonlyPaths) != 0 ||
		sc.Seccomp.ProfileType != runtimeapi.SecurityProfile_Localhost || sc.Seccomp.LocalhostRef != "/profiles/p.json" || sc.SupplementalGroupsPolicy != runtimeapi.SupplementalGroupsPolicy_Strict ||
		!slices.Equal(sc.Capabilities.DropCapabilities, []string{"ALL"}) {
		t.Errorf("security %+v", sc)
	}
	r := cfg.Linux.Resources
	if r.CpuShares != 102 || r.CpuQuota != 100_000 || r.MemoryLimitInBytes != 512<<20 || r.OomScoreAdj != 750 || len(r.HugepageLimits) != 1 ||
		r.HugepageLimits[0].PageSize != "2MB" || r.HugepageLimits[0].Limit != 4<<20 {
		t.Errorf("resources %+v", r)
	}
	if cfg.Annotations[AnnotationRestartCount] != "3" || cfg.Annotations[AnnotationRound] != "2" || cfg.Annotations[AnnotationHash] != "h" || !strings.Contains(cfg.Annotations[AnnotationPreStop], "sleep") {
		t.Errorf("annotations %v", cfg.Annotations)
	}
	plain := parse(t, "spec: {containers: [{name: c}]}")
	cfg, err = Container(&ContainerInput{Pod: plain, Container: &plain.Spec.Containers[0], Env: &Env{}, ImageUser: ImageUser{Name: "web"}, Users: testUsers,
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: "/v"}}}, testNode())
	if err != nil {
		t.Fatal(err)
	}
	sc = cfg.Linux.SecurityContext
	if sc.NamespaceOptions.UsernsOptions != testUsers || cfg.Mounts[0].UidMappings[0].HostId != 131072 || cfg.Mounts[0].GidMappings[0].Length != 65536 {
		t.Errorf("user namespace %v, mounts %v", sc.NamespaceOptions.UsernsOptions, cfg.Mounts)
	}
	if sc.RunAsUsername != "web" || sc.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault || len(sc.MaskedPaths) == 0 || cfg.Linux.Resources.OomScoreAdj != 1000 {
		t.Errorf("security %+v", sc)
	}
}

func TestNonRoot(t *testing.T) {
	zero, one := int64(0), int64(1)
	for _, c := range []struct {
		context, want string
		image         ImageUser
	}{
		{"{runAsNonRoot: true}", `container has runAsNonRoot and image will run as root (pod: "p_ns(u1)", container: c)`, ImageUser{UID: &zero}},
		{"{runAsNonRoot: true}", "", ImageUser{UID: &one}},
		{"{runAsNonRoot: true}", `container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: "p_ns(u1)", container: c)`, ImageUser{Name: "web"}},
		{"{runAsNonRoot: true, runAsUser: 0}", `container's runAsUser breaks non-root policy (pod: "p_ns(u1)", container: c)`, ImageUser{UID: &one}},
		{"{runAsNonRoot: true, runAsUser: 5}", "", ImageUser{UID: &zero}},
		{"{runAsNonRoot: false}", "", ImageUser{UID: &zero}},
	} {
		p := parse(t, "spec: {securityContext: "+c.context+", containers: [{name: c}]}")
		got := ""
		if err := VerifyNonRoot(p, &p.Spec.Containers[0], c.image); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.context, got, c.want)
		}
	}
}

func TestHosts(t *testing.T) {
	p := parse(t, "spec: {subdomain: sub, hostAliases: [{ip: 1.2.3.4, hostnames: [a, b]}]}")
	got, err := HostsFile(p, testNode(), []string{"10.0.0.5"}, "")
	if err != nil {
		t.Fatal(err)
	}
	want := "10.0.0.5\tp.sub.ns.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if !strings.HasPrefix(got, "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n") || !strings.HasSuffix(got, want) {
		t.Errorf("hosts file %q", got)
	}
	p.Spec.HostNetwork = true
	if got, err := HostsFile(p, testNode(), nil, "HOST\n"); err != nil || !strings.HasPrefix(got, "# Kubernetes-managed hosts file (host network).\nHOST\n") {
		t.Errorf("hosts file %q, %v", got, err)
	}
}

func TestResolvConf(t *testing.T) {
	r, err := ParseResolv(strings.NewReader("# c\nnameserver 127.0.0.53\nsearch a. b\ndomain x\nsearch c d.\noptions edns0 trust-ad\n"))
	if err != nil || fmt.Sprint(r) != "{[127.0.0.53] [c d] [edns0 trust-ad]}" || !r.OnlyLoopback() {
		t.Errorf("%v, %v", r, err)
	}
}

// TestPodLevelResources limits containers without limits by the Pod's, and counts what the Pod requests beyond them.
func TestPodLevelResources(t *testing.T) {
	p := parse(t, `
spec:
  resources: {requests: {cpu: "1", memory: 512Mi}, limits: {cpu: "2", memory: 768Mi}}
  initContainers:
  - {name: sidecar, image: img, restartPolicy: Always}
  containers:
  - {name: none, image: img, env: [{name: M, valueFrom: {resourceFieldRef: {resource: limits.memory}}}]}
  - {name: own, image: img, resources: {requests: {memory: 128Mi}, limits: {cpu: 500m, memory: 256Mi}}}
`)
	node := testNode() // of 1 GiB
	for name, want := range map[string]struct{ quota, memory, shares, adj int64 }{
		// 128 MiB each of what the containers do not ask for.
		"none":    {200_000, 768 << 20, 2048, 875},
		"own":     {50_000, 256 << 20, 512, 750},
		"sidecar": {200_000, 768 << 20, 2048, 875},
	} {
		r := ContainerResources(p, findContainer(p, name), node)
		if r.CpuQuota != want.quota || r.MemoryLimitInBytes != want.memory || r.CpuShares != want.shares || r.OomScoreAdj != want.adj {
			t.Errorf("%s: %+v", name, r)
		}
	}
	ref := p.Spec.Containers[0].Env[0].ValueFrom.ResourceFieldRef
	if got, err := ResourceValue(ref, p, &p.Spec.Containers[0], v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")}); err != nil || got != "805306368" {
		t.Errorf("limits.memory is %s, %v", got, err)
	}
}

// TestSidecarOutlivesWhatItServes: it dies no sooner than the regular container that asked for least.
func TestSidecarOutlivesWhatItServes(t *testing.T) {
	p := parse(t, `
spec:
  initContainers:
  - {name: sidecar, image: img, restartPolicy: Always, resources: {requests: {memory: 1Mi}}}
  - {name: setup, image: img, resources: {requests: {memory: 1Mi}}}
  containers:
  - {name: large, image: img, resources: {requests: {memory: 512Mi}}}
  - {name: small, image: img, resources: {requests: {memory: 256Mi}}}
`)
	for name, want := range map[string]int64{"sidecar": 750, "setup": 999, "large": 500, "small": 750} {
		if got := ContainerResources(p, findContainer(p, name), testNode()).OomScoreAdj; got != want {
			t.Errorf("%s: %d, not %d", name, got, want)
		}
	}
}
