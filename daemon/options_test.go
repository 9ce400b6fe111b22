package daemon

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/kubelet/evict"
)

// TestNodeOptions: what the file says holds, flags win, and what makes no sense is refused by the flag's name.
func TestNodeOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("evictionHard: {nodefs.available: 5%}\nimageGCHighThresholdPercent: 99\nnodeName: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(args ...string) (settled, error) {
		o := DefaultOptions()
		f := pflag.NewFlagSet("server", pflag.ContinueOnError)
		o.AddFlags(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		if err := o.Load(file, f); err != nil {
			t.Fatal(err)
		}
		return o.settle()
	}
	s, err := load("--node-name", "flag")
	if err != nil || len(s.evict) != 1 || s.evict[0].Signal != evict.NodeFsAvailable || s.ImageGCHighThreshold != 99 || s.ImageGCLowThreshold != 80 || s.NodeName != "flag" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = load("--eviction-hard=memory.available<1Gi,pid.available<10%"); err != nil || len(s.evict) != 2 || s.evict[0].String() != "1Gi" {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = load("--eviction-soft=memory.available<10%", "--eviction-soft-grace-period=memory.available=1m30s", "--eviction-minimum-reclaim=nodefs.available=1Gi",
		"--eviction-max-pod-grace-period=-1", "--eviction-pressure-transition-period=30s")
	if err != nil || len(s.evict) != 2 || s.evict[1].Grace != 90*time.Second || s.evict[0].Reclaim.String() != "1Gi" || s.EvictionMaxPodGracePeriod != -1 ||
		s.EvictionPressureTransitionPeriod.Duration != 30*time.Second {
		t.Errorf("soft eviction: %+v, %v", s.NodeOptions, err)
	}
	for _, bad := range []string{"--eviction-hard=disk<1Gi", "--eviction-soft=memory.available<1Gi", "--eviction-pressure-transition-period=-1s", "--image-gc-low-threshold=99", "--node-labels=node-restriction.kubernetes.io/a=b", "--node-labels=kubernetes.io/role=x", "--node-labels=a=b c",
		"--register-with-taints=gpu=true", "--register-with-taints=gpu=true:Never", "--register-with-taints=a=1:NoSchedule,a=2:NoSchedule", "--register-with-taints==v:NoSchedule",
		"--max-pods=0", "--root-dir=kubelet", "--root-dir=/", "--root-dir=/var/lib/../kubelet", "--system-reserved=pids=3", "--system-reserved=cpu=-1", "--system-reserved=memory=much", "--resolv-conf=resolv.conf",
		"--container-log-max-size=0", "--container-log-max-size=big", "--container-log-max-files=1", "--max-parallel-image-pulls=-1", "--kubelet-port=70000", "--node-ip=127.0.0.1", "--node-name=A_b",
		"--tls-san=https://example.org", "--tls-san=10.0.0.0/8"} {
		flag, _, _ := strings.Cut(bad, "=")
		if _, err := load(bad); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	s, err = load("--node-labels=disk=ssd,topology.kubernetes.io/zone=a", "--register-with-taints=gpu=true:NoSchedule,gpu:NoExecute", "--max-pods=20",
		"--system-reserved=cpu=200m,memory=1Gi", "--container-log-max-size=1Mi")
	taints := []corev1.Taint{{Key: "gpu", Value: "true", Effect: corev1.TaintEffectNoSchedule}, {Key: "gpu", Effect: corev1.TaintEffectNoExecute}}
	if err != nil || s.NodeLabels["disk"] != "ssd" || len(s.NodeLabels) != 2 || !slices.Equal(s.taints, taints) || s.MaxPods != 20 ||
		s.reserved.Cpu().MilliValue() != 200 || s.reserved.Memory().Value() != 1<<30 || s.logMaxSize != 1<<20 || s.ContainerLogMaxFiles != 5 || !s.SeccompDefault {
		t.Errorf("%+v, %v", s.settledNode, err)
	}
	s, err = load("--tls-san=api.example.org,203.0.113.7,*.example.org", "--tls-san", "2001:db8::1")
	if err != nil || !slices.Equal(s.names, []string{"api.example.org", "*.example.org"}) || len(s.addresses) != 2 || !s.addresses[0].Equal(net.IPv4(203, 0, 113, 7)) {
		t.Errorf("%v, %v, %v", s.names, s.addresses, err)
	}
	if s, err := DefaultOptions().settle(); err != nil || len(s.evict) != len(evict.DefaultThresholds()) {
		t.Errorf("defaults: %+v, %v", s, err)
	}
}

// TestRanges: networks are of the same IP families for Pods and Services, in the same order; what cannot be is refused by the flag's name.
func TestRanges(t *testing.T) {
	r, err := parseRanges("10.244.0.0/16,fd00:10:244::7/56", "10.96.0.0/16, fd00:10:96::/112")
	if err != nil || r.String() != "10.244.0.0/16,fd00:10:244::/56 10.96.0.0/16,fd00:10:96::/112" {
		t.Errorf("%s, %v", r, err)
	}
	if got := firstPart(r.Cluster).String(); got != "10.244.0.0/24,fd00:10:244::/64" {
		t.Errorf("a server's own node has %s", got)
	}
	for good, want := range map[[2]string]string{
		{"fd00:1::/56", "fd00:2::/112"}:                             "fd00:1::/56 fd00:2::/112",
		{"fd00:1::/56,10.244.0.0/16", "fd00:2::/112, 10.96.0.0/16"}: "fd00:1::/56,10.244.0.0/16 fd00:2::/112,10.96.0.0/16",
		{"", "10.97.0.0/16"}:                                        " 10.97.0.0/16",
		{"", ""}:                                                    " ",
	} {
		if r, err := parseRanges(good[0], good[1]); err != nil || r.String() != want {
			t.Errorf("%q: %s, %v", good, r, err)
		}
	}
	for bad, want := range map[[2]string]string{
		{"10.244.0.0", ""}:                                           `--cluster-cidr "10.244.0.0": not a CIDR`,
		{"10.0.0.0/9,10.244.0.0/16", ""}:                             "more than one network of an IP family",
		{"", "10.96.0.0/30"}:                                         `--service-cidr "10.96.0.0/30": the IPv4 network must be between a /8 and a /28`,
		{"fd00::/56", ""}:                                            `such as --cluster-cidr fd00:10:244::/56 --service-cidr fd00:10:96::/112`,
		{"", "fd00::/112"}:                                           `such as --cluster-cidr fd00:10:244::/56 --service-cidr fd00:10:96::/112`,
		{"fd00::/56", "10.96.0.0/16"}:                                "must have addresses of the same IP families",
		{"fd00::/56,10.244.0.0/16", "10.96.0.0/16,fd01::/112"}:       "such as --cluster-cidr fd00:10:244::/56,10.244.0.0/16 --service-cidr fd00:10:96::/112,10.96.0.0/16",
		{"fd00::/12", "fd01::/112"}:                                  `--cluster-cidr "fd00::/12": the IPv6 network must be between a /16 and a /64`,
		{"10.244.0.0/16,fd00::/80", ""}:                              "the IPv6 network must be between a /16 and a /64",
		{"10.244.0.0/16,fd00::/56", "10.96.0.0/16,fd01::/48"}:        `--service-cidr "10.96.0.0/16,fd01::/48": the IPv6 network must be between a /64 and a /124`,
		{"10.244.0.0/16,fd00::/56", ""}:                              "must have addresses of the same IP families",
		{"10.244.0.0/16", "10.96.0.0/16,fd01::/112"}:                 "must have addresses of the same IP families",
		{"10.244.0.0/16,fd00::/56", "10.96.0.0/16,fd00:0:0:9::/112"}: "they overlap each other",
	} {
		if _, err := parseRanges(bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", bad, want, err)
		}
	}
	for value, want := range map[string]int{"": 0, "192.0.2.1": 1, "192.0.2.1, 2001:db8::1": 2, "2001:db8::1": 1} {
		if got, err := parseNodeIPs(value); err != nil || len(got) != want {
			t.Errorf("--node-ip %q: %v, %v", value, got, err)
		}
	}
	for _, bad := range []string{"here", "::1", "fe80::1%eth0", "fe80::1", "192.0.2.1,192.0.2.2", "192.0.2.1,"} {
		if got, err := parseNodeIPs(bad); err == nil || !strings.Contains(err.Error(), "--node-ip") {
			t.Errorf("--node-ip %q: %v, %v", bad, got, err)
		}
	}
}

// TestAgentOptions: an agent's file and flags are a server's, as far as they concern a node; what only a server has is unknown.
func TestAgentOptions(t *testing.T) {
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	load := func(file string, args ...string) (AgentOptions, error) {
		o := DefaultAgentOptions()
		f := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		o.AddFlags(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		err := o.Load(file, f)
		return o, err
	}
	file := write("server: https://10.0.0.1:6443\nnodeName: file\ninsecureRegistries: [a.example, b.example:5000]\nevictionHard: {nodefs.available: 5%}\n")
	o, err := load(file, "--node-name", "flag")
	if err != nil || o.Server != "https://10.0.0.1:6443" || o.NodeName != "flag" || len(o.InsecureRegistries) != 2 || o.EvictionHard["nodefs.available"] != "5%" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = load(file, "--insecure-registries=c.example"); err != nil || len(o.InsecureRegistries) != 1 || o.InsecureRegistries[0] != "c.example" {
		t.Errorf("flags do not win over the file: %+v, %v", o.InsecureRegistries, err)
	}
	if _, err := load(write("clusterCIDR: 10.0.0.0/16\n")); err == nil || !strings.Contains(err.Error(), "clusterCIDR") {
		t.Errorf("a server's option in an agent's file: %v", err)
	}
}

// TestAgentSettles: a machine is of a cluster once it has a Pod network there; a try that came to nothing binds it to nothing.
func TestAgentSettles(t *testing.T) {
	token := func(pin string) string { return "abcdef.0123456789abcdef." + strings.Repeat(pin, 64) }
	o := AgentOptions{Server: "https://10.0.0.1:6443", Token: token("b"), NodeOptions: defaultNodeOptions()}
	o.NodeName = "new"
	tried := agentRecord{Server: "https://10.0.0.2:6443", Pin: strings.Repeat("a", 64), CA: "theirs", NodeName: "old"}
	a, err := o.settle(tried)
	if err != nil || a.record.Pin != strings.Repeat("b", 64) || a.record.CA != "" || a.record.NodeName != "new" || a.server.Host != "10.0.0.1:6443" {
		t.Errorf("after a try elsewhere: %+v, %v", a.record, err)
	}
	joined := tried
	joined.PodCIDRs = cidrs.Of(netip.MustParsePrefix("10.244.1.0/24"))
	if _, err := o.settle(joined); err == nil || !strings.Contains(err.Error(), "--node-name") {
		t.Errorf("a node of another name: %v", err)
	}
	o.NodeName = "old"
	if _, err := o.settle(joined); err == nil || !strings.Contains(err.Error(), "another cluster's") {
		t.Errorf("another cluster's token: %v", err)
	}
	o.Token = ""
	if a, err := o.settle(joined); err != nil || a.record.CA != "theirs" || !a.record.PodCIDRs.Equal(joined.PodCIDRs) {
		t.Errorf("a start without a token: %+v, %v", a.record, err)
	}
}
