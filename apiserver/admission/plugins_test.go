package admission_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/peapod/peapod/apiserver/admission/configuration"
	"github.com/peapod/peapod/internal/testca"
)

// TestPlugins: plugins that are off by default work when they are on, those that are on by default do nothing when they are off.
func TestPlugins(t *testing.T) {
	plugins, err := configured(t, map[string]string{
		"admission.yaml": admissionHead + "- {name: PodNodeSelector, path: nodes.yaml}\n",
		"nodes.yaml":     "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: pool=common\n  default: pool=common,disk=ssd\n",
	}, func(o *configuration.Options) {
		o.EnableAdmissionPlugins = append(configuration.Optional(), "ResourceQuota")
		o.DisableAdmissionPlugins = []string{"DefaultTolerationSeconds", "CertificateSubjectRestriction", "PodTopologyLabels", "EventRateLimit"}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, vfs.NewMem(), setup{plugins: plugins})
	pods := c.system.CoreV1().Pods("default")
	create := func(change func(*corev1.Pod)) (*corev1.Pod, error) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeSelector: map[string]string{"disk": "ssd"},
			InitContainers: []corev1.Container{{Name: "i", Image: "i", ImagePullPolicy: corev1.PullNever}}, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "r", PullPolicy: corev1.PullNever}}}}}}
		if change != nil {
			change(p)
		}
		return pods.Create(ctx, p, metav1.CreateOptions{})
	}
	pod, err := create(nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, policy := range map[string]corev1.PullPolicy{"init container": pod.Spec.InitContainers[0].ImagePullPolicy,
		"container": pod.Spec.Containers[0].ImagePullPolicy, "volume": pod.Spec.Volumes[0].Image.PullPolicy} {
		if policy != corev1.PullAlways {
			t.Errorf("the image of the %s is pulled %s", what, policy)
		}
	}
	if s := pod.Spec.NodeSelector; len(s) != 2 || s["pool"] != "common" || s["disk"] != "ssd" {
		t.Errorf("node selector %v", s)
	}
	if len(pod.Spec.Tolerations) != 0 {
		t.Errorf("tolerations %v, though nobody adds any", pod.Spec.Tolerations)
	}
	_, err = create(func(p *corev1.Pod) { p.Spec.NodeSelector["pool"] = "mine" })
	refused(t, err, "pod node label selector conflicts with its namespace node label selector")
	_, err = create(func(p *corev1.Pod) { p.Spec.NodeSelector["gpu"] = "true" })
	refused(t, err, "pod node label selector labels conflict with its namespace whitelist")
	_, err = create(func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: "topology.kubernetes.io/zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}}}
	})
	refused(t, err, "has TopologyKey topology.kubernetes.io/zone but only key kubernetes.io/hostname is allowed")
	namespaceSelector(t, c)
	externalIPs(t, c)

	request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "master"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: certificatesv1.KubeAPIServerClientSignerName, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: testca.NewRequest(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "m", Organization: []string{"system:masters"}}})}), Usages: []certificatesv1.KeyUsage{"client auth"}}}
	_, err = c.system.CertificatesV1().CertificateSigningRequests().Create(ctx, request, metav1.CreateOptions{})
	fine(t, err)
}

// namespaceSelector: the annotation goes before the default.
func namespaceSelector(t *testing.T, c *cluster) {
	t.Helper()
	_, err := c.system.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "annotated",
		Annotations: map[string]string{"scheduler.alpha.kubernetes.io/node-selector": "pool=own"}}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.CoreV1().ServiceAccounts("annotated").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	fine(t, err)
	pod, err := c.system.CoreV1().Pods("annotated").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil || len(pod.Spec.NodeSelector) != 1 || pod.Spec.NodeSelector["pool"] != "own" {
		t.Errorf("%v, %v", pod.Spec.NodeSelector, err)
	}
}

// externalIPs: a Service gets none; what it has it may lose.
func externalIPs(t *testing.T, c *cluster) {
	t.Helper()
	services := c.system.CoreV1().Services("default")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}
	made, err := services.Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Spec.ExternalIPs = []string{"192.0.2.1"}
	_, err = services.Update(ctx, made, metav1.UpdateOptions{})
	refused(t, err, "Use of external IPs is denied by admission control")
	s.Name, s.Spec.ExternalIPs = "t", []string{"192.0.2.1"}
	_, err = services.Create(ctx, s, metav1.CreateOptions{})
	refused(t, err, "Use of external IPs is denied by admission control")
}

// TestBadPlugins: names that are not, or not here, are refused with those that are.
func TestBadPlugins(t *testing.T) {
	for _, test := range []struct {
		enable, disable []string
		want            []string
	}{
		{enable: []string{"EventRateLimit"}, want: []string{"--enable-admission-plugins", `"EventRateLimit" is not part of Peapod`, "AlwaysPullImages"}},
		{enable: []string{"alwayspullimages"}, want: []string{"--enable-admission-plugins", `plugin "alwayspullimages" is unknown`, "AlwaysPullImages"}},
		{disable: []string{"Prioritie"}, want: []string{"--disable-admission-plugins", `plugin "Prioritie" is unknown`, "Priority"}},
		{enable: []string{"Priority"}, disable: []string{"Priority"}, want: []string{"[Priority]", "--enable-admission-plugins and --disable-admission-plugins overlapped"}},
	} {
		_, err := configuration.Load(configuration.Options{EnableAdmissionPlugins: test.enable, DisableAdmissionPlugins: test.disable})
		for _, part := range test.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v, %v: %v does not say %q", test.enable, test.disable, err, part)
			}
		}
	}
	if all := append(configuration.Default(), configuration.Optional()...); len(slices.Compact(slices.Sorted(slices.Values(all)))) != len(all) {
		t.Errorf("a plugin is in two lists: %v", all)
	}
}
