package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/controllers/certificates"
	"github.com/peapod/peapod/controllers/nodelifecycle"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
	kubeletnode "github.com/peapod/peapod/kubelet/node"
	"github.com/peapod/peapod/store/etcd"
)

// TokenEnv is the environment variable that replaces --token, which other users of the machine can see.
const TokenEnv = "PEAPOD_TOKEN"

// Options are what a user may set of a server, by flag or in the configuration file; the file's keys are the names in
// the tags.
type Options struct {
	// BindAddress and Port are where the API is served.
	BindAddress string `json:"bindAddress,omitempty"`
	Port        int    `json:"port,omitempty"`
	// TLSSANs are more names and addresses that clients reach the API by: those of a load balancer, or behind a NAT.
	TLSSANs []string `json:"tlsSANs,omitempty"`
	NodeOptions
	// ClusterCIDR and ServiceCIDR are the addresses of Pods and of Services: a network of IPv4 or of IPv6, or with a comma one of each, of which
	// the first is what counts where there is one address. Both have the same families in the same order. Empty chooses ranges of IPv4 that
	// are free on this machine. They are fixed by a data directory's first start.
	ClusterCIDR string `json:"clusterCIDR,omitempty"`
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// EtcdServers has the objects kept in etcd, which other servers may share, instead of on this machine. It and what
	// follows are kube-apiserver's.
	EtcdServers            []string        `json:"etcdServers,omitempty"`
	EtcdCAFile             string          `json:"etcdCAFile,omitempty"`
	EtcdCertFile           string          `json:"etcdCertFile,omitempty"`
	EtcdKeyFile            string          `json:"etcdKeyFile,omitempty"`
	EtcdPrefix             string          `json:"etcdPrefix,omitempty"`
	EtcdCompactionInterval metav1.Duration `json:"etcdCompactionInterval,omitzero"`
	// ClusterSigningDuration is for how long certificates that the cluster signs are valid, NodeMonitorGracePeriod for how long a
	// node may be silent before it counts as lost. They are kube-controller-manager's.
	ClusterSigningDuration metav1.Duration `json:"clusterSigningDuration,omitzero"`
	NodeMonitorGracePeriod metav1.Duration `json:"nodeMonitorGracePeriod,omitzero"`
	// Token is what the servers of one cluster share; it protects the cluster's keys in etcd. The first server makes one.
	Token string `json:"token,omitempty"`
	APIOptions
}

// DefaultOptions are the options of `peapod server` without flags.
func DefaultOptions() Options {
	return Options{BindAddress: "0.0.0.0", Port: 6443, NodeOptions: defaultNodeOptions(),
		EtcdPrefix: etcd.DefaultPrefix, EtcdCompactionInterval: metav1.Duration{Duration: etcd.DefaultCompactionInterval},
		ClusterSigningDuration: metav1.Duration{Duration: certificates.DefaultSigningDuration},
		NodeMonitorGracePeriod: metav1.Duration{Duration: nodelifecycle.DefaultGracePeriod},
		APIOptions:             defaultAPIOptions()}
}

// AddFlags adds a flag for each option that has one. The defaults are what o says.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.BindAddress, "bind-address", o.BindAddress, "IP address to serve the API on")
	f.IntVar(&o.Port, "port", o.Port, "port to serve the API on")
	f.StringSliceVar(&o.TLSSANs, "tls-san", o.TLSSANs, "more host names and IP addresses, comma separated, that clients reach the API by; its certificate names them")
	o.NodeOptions.AddFlags(f)
	f.StringVar(&o.ClusterCIDR, "cluster-cidr", o.ClusterCIDR, "addresses of Pods: IPv4, at least a /24, or IPv6, at least a /64, or with a comma both, the main one first (default: a free /16, 10.244.0.0/16 first)")
	f.StringVar(&o.ServiceCIDR, "service-cidr", o.ServiceCIDR, "addresses of Services, of the same IP families: at least a /28, or of IPv6 such as a /112 (default: a free /16, 10.96.0.0/16 first)")
	o.AddEtcdFlags(f)
	f.DurationVar(&o.EtcdCompactionInterval.Duration, "etcd-compaction-interval", o.EtcdCompactionInterval.Duration, "how much history etcd keeps; 0 leaves compaction to others")
	f.DurationVar(&o.ClusterSigningDuration.Duration, "cluster-signing-duration", o.ClusterSigningDuration.Duration, "how long certificates that the cluster signs are valid; requests may ask for less")
	f.DurationVar(&o.NodeMonitorGracePeriod.Duration, "node-monitor-grace-period", o.NodeMonitorGracePeriod.Duration, "how long a node may be silent before it counts as lost")
	o.APIOptions.AddFlags(f)
}

// AddEtcdFlags adds the flags of those options by which a server of several finds the cluster and is let in.
func (o *Options) AddEtcdFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.EtcdServers, "etcd-servers", o.EtcdServers, "keep the objects in this etcd, which other servers may share: URLs, comma separated (https, or http on loopback)")
	f.StringVar(&o.EtcdCAFile, "etcd-cafile", o.EtcdCAFile, "file with the authorities that sign etcd's certificates")
	f.StringVar(&o.EtcdCertFile, "etcd-certfile", o.EtcdCertFile, "file with the certificate to show to etcd")
	f.StringVar(&o.EtcdKeyFile, "etcd-keyfile", o.EtcdKeyFile, "file with the key of that certificate")
	f.StringVar(&o.EtcdPrefix, "etcd-prefix", o.EtcdPrefix, "what all keys in etcd begin with")
	f.StringVar(&o.Token, "token", o.Token, "token that the servers of one etcd share (environment: "+TokenEnv+"); the first server makes one, in <data-dir>/server-token")
}

// Load overlays o with what the configuration file says (file may be empty), except where one of the given flags, which are o's,
// was set. Unknown keys and mistyped values are errors. The servers' token may be in the environment instead.
func (o *Options) Load(file string, given *pflag.FlagSet) error {
	if err := load(o, DefaultOptions(), file, given); err != nil {
		return err
	}
	if o.Token == "" && len(o.EtcdServers) > 0 {
		o.Token = os.Getenv(TokenEnv)
	}
	return nil
}

// flagged are options that flags set.
type flagged[T any] interface {
	*T
	AddFlags(*pflag.FlagSet)
}

// load is Load of any options, with their defaults.
func load[T any, P flagged[T]](o P, loaded T, file string, given *pflag.FlagSet) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read --config: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, &loaded); err != nil {
		return fmt.Errorf("read --config %s: %w", file, err)
	}
	flags := pflag.NewFlagSet("file", pflag.ContinueOnError)
	P(&loaded).AddFlags(flags)
	given.Visit(func(f *pflag.Flag) {
		target := flags.Lookup(f.Name)
		if target == nil {
			return // no option of the file's
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			err = errors.Join(err, target.Value.(pflag.SliceValue).Replace(list.GetSlice()))
			return
		}
		err = errors.Join(err, target.Value.Set(f.Value.String()))
	})
	if err != nil {
		return fmt.Errorf("read --config %s: %w", file, err)
	}
	*o = loaded
	return nil
}

// settled are options that have been checked and parsed.
type settled struct {
	Options
	settledNode
	bind netip.Addr
	want instance.Ranges
	// names and addresses are those that the API's certificate is to have beyond its own.
	names     []string
	addresses []net.IP
}

// settle checks every option. Errors name the flag, the value and what would do.
func (o Options) settle() (settled, error) {
	s := settled{Options: o}
	var err error
	if s.bind, err = netip.ParseAddr(o.BindAddress); err != nil {
		return s, fmt.Errorf("--bind-address %q: not an IP address; give one of this machine's, or 0.0.0.0 for all", o.BindAddress)
	}
	if o.Port < 1 || o.Port > 65535 {
		return s, fmt.Errorf("--port %d: must be between 1 and 65535", o.Port)
	}
	if s.names, s.addresses, err = parseSANs(o.TLSSANs); err != nil {
		return s, err
	}
	if s.settledNode, err = o.NodeOptions.settle(); err != nil {
		return s, err
	}
	if s.want, err = parseRanges(o.ClusterCIDR, o.ServiceCIDR); err != nil {
		return s, err
	}
	if err := o.checkTimes(); err != nil {
		return s, err
	}
	if err := o.APIOptions.check(); err != nil {
		return s, err
	}
	return s, o.checkEtcd()
}

// parseSANs tells host names from addresses.
func parseSANs(all []string) (names []string, addresses []net.IP, err error) {
	for _, one := range all {
		if ip, err := netip.ParseAddr(one); err == nil && ip.Zone() == "" {
			addresses = append(addresses, net.IP(ip.Unmap().AsSlice()))
			continue
		}
		if len(validation.IsDNS1123Subdomain(one)) > 0 && len(validation.IsWildcardDNS1123Subdomain(one)) > 0 {
			return nil, nil, fmt.Errorf("--tls-san %q: neither an IP address nor a host name in lower case, such as api.example.org or 203.0.113.7", one)
		}
		names = append(names, one)
	}
	return names, addresses, nil
}

// checkTimes checks the options of the controllers.
func (o Options) checkTimes() error {
	if d := o.ClusterSigningDuration.Duration; d <= 0 {
		return fmt.Errorf("--cluster-signing-duration %s: must be positive, such as %s", d, certificates.DefaultSigningDuration)
	}
	// A node renews its lease that often, and one that is late is not lost.
	if d := o.NodeMonitorGracePeriod.Duration; d <= kubeletnode.LeaseRenewal {
		return fmt.Errorf("--node-monitor-grace-period %s: must be more than the %s after which a node is heard of again, such as %s",
			d, kubeletnode.LeaseRenewal, nodelifecycle.DefaultGracePeriod)
	}
	return nil
}

// checkEtcd checks the options of etcd that do not need it to answer.
func (o Options) checkEtcd() error {
	if o.EtcdCompactionInterval.Duration < 0 {
		return fmt.Errorf("--etcd-compaction-interval %s: must not be negative; 0 leaves compaction to others", o.EtcdCompactionInterval.Duration)
	}
	if p := o.EtcdPrefix; p == "" || path.Join("/", p) != p {
		return fmt.Errorf("--etcd-prefix %q: must begin with a slash and not end with one, such as %s", p, etcd.DefaultPrefix)
	}
	if len(o.EtcdServers) > 0 {
		return nil
	}
	for flag, value := range map[string]string{"etcd-cafile": o.EtcdCAFile, "etcd-certfile": o.EtcdCertFile, "etcd-keyfile": o.EtcdKeyFile, "token": o.Token} {
		if value != "" {
			return fmt.Errorf("--%s: has a meaning only with --etcd-servers", flag)
		}
	}
	return nil
}

// etcd is what the store is opened with.
func (o Options) etcd() etcd.Config {
	c := etcd.Config{Servers: o.EtcdServers, CAFile: o.EtcdCAFile, CertFile: o.EtcdCertFile, KeyFile: o.EtcdKeyFile,
		Prefix: o.EtcdPrefix, CompactionInterval: o.EtcdCompactionInterval.Duration}
	if c.CompactionInterval == 0 {
		c.CompactionInterval = -1 // kube-apiserver's 0: never
	}
	return c
}

// exampleCIDRs are networks of Pods and of Services for messages, by IP family.
var exampleCIDRs = map[bool][2]string{false: {"10.244.0.0/16", "10.96.0.0/16"}, true: {"fd00:10:244::/56", "fd00:10:96::/112"}}

// example are the flags of a cluster of those IP families.
func example(families []bool) string {
	var pods, services []string
	for _, is6 := range families {
		pods, services = append(pods, exampleCIDRs[is6][0]), append(services, exampleCIDRs[is6][1])
	}
	return "--cluster-cidr " + strings.Join(pods, ",") + " --service-cidr " + strings.Join(services, ",")
}

// parseRanges checks the addresses that a cluster is to have.
func parseRanges(cluster, service string) (r instance.Ranges, err error) {
	if r.Cluster, err = parseCIDRs("cluster-cidr", cluster, "10.244.0.0/16, fd00:10:244::/56", [2]int{8, 24}, [2]int{16, 64}); err != nil {
		return r, err
	}
	if r.Service, err = parseCIDRs("service-cidr", service, "10.96.0.0/16, fd00:10:96::/112", [2]int{8, 28}, [2]int{64, 124}); err != nil {
		return r, err
	}
	if !slices.Equal(familiesIn(r.Cluster), familiesIn(r.Service)) {
		as := r.Cluster
		if len(as) == 0 {
			as = r.Service
		}
		return r, fmt.Errorf("--cluster-cidr %q, --service-cidr %q: Pods and Services must have addresses of the same IP families, in the same order; name networks of both, such as %s",
			cluster, service, example(as.Families()))
	}
	if r.Cluster.Overlaps(r.Service...) {
		return r, fmt.Errorf("--cluster-cidr %s, --service-cidr %s: they overlap each other; choose others", r.Cluster, r.Service)
	}
	return r, nil
}

// familiesIn are the IP families of networks, of those that are chosen where none are named.
func familiesIn(l cidrs.List) []bool {
	if len(l) == 0 {
		l = instance.Usual().Cluster
	}
	return l.Families()
}

// parseCIDRs reads the value of a flag: a network, or one of each IP family, whose sizes are in between.
func parseCIDRs(flag, value, examples string, between4, between6 [2]int) (cidrs.List, error) {
	l, err := cidrs.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: not a CIDR such as %s, or two of different IP families with a comma between: %w", flag, value, examples, err)
	}
	for _, p := range l {
		between := between4
		if p.Addr().Is6() {
			between = between6
		}
		if p.Bits() < between[0] || p.Bits() > between[1] {
			return nil, fmt.Errorf("--%s %q: the %s network must be between a /%d and a /%d", flag, value, familyName(p.Addr().Is6()), between[0], between[1])
		}
	}
	return l, nil
}
