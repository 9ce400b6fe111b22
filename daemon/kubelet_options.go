package daemon

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/peapod/peapod/apiserver/admission/noderestriction"
)

// KubeletOptions are what a user may set of how this machine's node shows itself to the scheduler, and of what its containers may take.
// Their names are a kubelet's.
type KubeletOptions struct {
	// RootDir is where the kubelet has Pods' directories and plugins their sockets; empty: <data-dir>/kubelet, or what it was before.
	RootDir string `json:"rootDir,omitempty"`
	// NodeLabels are labels of the Node. They are set at each start; those that are left out stay.
	NodeLabels map[string]string `json:"nodeLabels,omitempty"`
	// RegisterWithTaints are taints that the Node is made with, as key=value:effect. One that is there already keeps its own.
	RegisterWithTaints []string `json:"registerWithTaints,omitempty"`
	// MaxPods is how many Pods the node takes.
	MaxPods int32 `json:"maxPods,omitempty"`
	// SystemReserved is what of the machine's resources is not the Pods': cpu, memory and ephemeral-storage.
	SystemReserved map[string]string `json:"systemReserved,omitempty"`
	// ResolvConf is the file with the resolvers that Pods have from the machine, and that the cluster's DNS asks for other names.
	ResolvConf string `json:"resolvConf,omitempty"`
	// SeccompDefault confines containers that name no seccomp profile by the runtime's.
	SeccompDefault bool `json:"seccompDefault"`
	// ContainerLogMaxSize is how large the log of a container gets before a new file is begun, and ContainerLogMaxFiles how many there are.
	ContainerLogMaxSize  string `json:"containerLogMaxSize,omitempty"`
	ContainerLogMaxFiles int32  `json:"containerLogMaxFiles,omitempty"`
	// MaxParallelImagePulls is how many images are pulled at once; 0 sets no limit.
	MaxParallelImagePulls int32 `json:"maxParallelImagePulls,omitempty"`
}

func defaultKubeletOptions() KubeletOptions {
	return KubeletOptions{MaxPods: 110, SeccompDefault: true, ContainerLogMaxSize: "10Mi", ContainerLogMaxFiles: 5}
}

// AddFlags adds a flag for each option.
func (o *KubeletOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.RootDir, "root-dir", o.RootDir, "where the kubelet has Pods' directories and the sockets of plugins, such as /var/lib/kubelet, which charts of CSI drivers take it for (default <data-dir>/kubelet); for the first start")
	f.Var(cliflag.NewMapStringString(&o.NodeLabels), "node-labels", "labels of this machine's node, such as `disk=ssd,zone=a`; those of kubernetes.io and k8s.io only as far as a node may set them")
	f.StringSliceVar(&o.RegisterWithTaints, "register-with-taints", o.RegisterWithTaints, "taints that this machine's node is made with, as key=value:effect, comma separated; a node that is there keeps its own")
	f.Int32Var(&o.MaxPods, "max-pods", o.MaxPods, "how many Pods the node takes")
	f.Var(cliflag.NewMapStringString(&o.SystemReserved), "system-reserved", "what Pods do not get of the machine, such as `cpu=200m,memory=500Mi`,ephemeral-storage=1Gi")
	f.StringVar(&o.ResolvConf, "resolv-conf", o.ResolvConf, "file with the resolvers that Pods have from the machine and the cluster's DNS asks for other names (default /etc/resolv.conf, or systemd-resolved's)")
	f.BoolVar(&o.SeccompDefault, "seccomp-default", o.SeccompDefault, "confine containers that name no seccomp profile by the runtime's")
	f.StringVar(&o.ContainerLogMaxSize, "container-log-max-size", o.ContainerLogMaxSize, "how large the log of a container gets before a new file is begun")
	f.Int32Var(&o.ContainerLogMaxFiles, "container-log-max-files", o.ContainerLogMaxFiles, "most files of the log of a container, the current one included; 2 at least")
	f.Int32Var(&o.MaxParallelImagePulls, "max-parallel-image-pulls", o.MaxParallelImagePulls, "how many images are pulled at once; 0 sets no limit")
}

// settledKubelet are KubeletOptions that have been checked and parsed.
type settledKubelet struct {
	taints     []corev1.Taint
	reserved   corev1.ResourceList
	logMaxSize int64 // bytes
}

// settle checks every option.
func (o *KubeletOptions) settle() (k settledKubelet, err error) {
	for key, value := range o.NodeLabels {
		if msgs := slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)); len(msgs) > 0 {
			return k, fmt.Errorf("--node-labels %s=%s: %s", key, value, strings.Join(msgs, "; "))
		}
	}
	if keys := noderestriction.ForbiddenLabels(o.NodeLabels, nil); len(keys) > 0 {
		return k, fmt.Errorf("--node-labels %s: no node may set these itself; `kubectl label node` by an administrator may", strings.Join(keys, ", "))
	}
	for _, text := range o.RegisterWithTaints {
		t, err := parseTaint(text)
		if err != nil {
			return k, err
		}
		if slices.ContainsFunc(k.taints, func(x corev1.Taint) bool { return x.MatchTaint(&t) }) {
			return k, fmt.Errorf("--register-with-taints %q: there is another of this key and effect", text)
		}
		k.taints = append(k.taints, t)
	}
	if d := o.RootDir; d != "" && (!filepath.IsAbs(d) || filepath.Clean(d) != d || d == "/") {
		return k, fmt.Errorf("--root-dir %q: must be an absolute path without dots, such as /var/lib/kubelet", d)
	}
	if o.MaxPods < 1 {
		return k, fmt.Errorf("--max-pods %d: must be at least 1", o.MaxPods)
	}
	if k.reserved, err = parseReserved(o.SystemReserved); err != nil {
		return k, err
	}
	if o.ResolvConf != "" && !filepath.IsAbs(o.ResolvConf) {
		return k, fmt.Errorf("--resolv-conf %q: must be an absolute path, such as /etc/resolv.conf", o.ResolvConf)
	}
	size, err := resource.ParseQuantity(o.ContainerLogMaxSize)
	if err != nil || size.Sign() <= 0 {
		return k, fmt.Errorf("--container-log-max-size %q: must be a size of more than zero, such as 10Mi", o.ContainerLogMaxSize)
	}
	k.logMaxSize = size.Value()
	if o.ContainerLogMaxFiles < 2 {
		return k, fmt.Errorf("--container-log-max-files %d: must be at least 2", o.ContainerLogMaxFiles)
	}
	if o.MaxParallelImagePulls < 0 {
		return k, fmt.Errorf("--max-parallel-image-pulls %d: must not be negative", o.MaxParallelImagePulls)
	}
	return k, nil
}

// parseTaint reads key=value:effect, or key:effect.
func parseTaint(text string) (corev1.Taint, error) {
	what, effect, _ := strings.Cut(text, ":")
	key, value, _ := strings.Cut(what, "=")
	t := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	msgs := slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value))
	if effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}; !slices.Contains(effects, t.Effect) {
		msgs = append(msgs, fmt.Sprintf("the effect %q is none of %v", effect, effects))
	}
	if len(msgs) > 0 {
		return t, fmt.Errorf("--register-with-taints %q: not key=value:effect: %s", text, strings.Join(msgs, "; "))
	}
	return t, nil
}

// parseReserved reads quantities of the resources that a machine has of itself.
func parseReserved(amounts map[string]string) (corev1.ResourceList, error) {
	list := corev1.ResourceList{}
	known := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	for name, amount := range amounts {
		if !slices.Contains(known, corev1.ResourceName(name)) {
			return nil, fmt.Errorf("--system-reserved %s=%s: %q is none of %v", name, amount, name, known)
		}
		q, err := resource.ParseQuantity(amount)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("--system-reserved %s=%s: must be a quantity that is not negative, such as 200m or 500Mi", name, amount)
		}
		list[corev1.ResourceName(name)] = q
	}
	return list, nil
}
