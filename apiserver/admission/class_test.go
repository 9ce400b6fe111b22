package admission_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func runtimeClasses(t *testing.T, c *cluster) {
	pods := c.system.CoreV1().Pods("default")
	create := func(name string, change func(*corev1.PodSpec)) (*corev1.Pod, error) {
		p := podOf(name, nil, nil)
		change(&p.Spec)
		return pods.Create(ctx, p, metav1.CreateOptions{})
	}
	vm := func(s *corev1.PodSpec) { s.RuntimeClassName = ptr("vm") }
	_, err := create("early", vm)
	refused(t, err, `pods "early" is forbidden: pod rejected: RuntimeClass "vm" not found`)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm",
		Overhead: &nodev1.Overhead{PodFixed: resources("cpu", "250m")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"kvm": "yes"},
			Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}}
	_, err = c.system.NodeV1().RuntimeClasses().Create(ctx, class, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.NodeV1().RuntimeClasses().Create(ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Handler: "bare"}, metav1.CreateOptions{})
	fine(t, err)

	p, err := create("vm", func(s *corev1.PodSpec) {
		vm(s)
		s.NodeSelector = map[string]string{"disk": "fast"}
		s.Tolerations = []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpEqual, Value: "a", Effect: corev1.TaintEffectNoSchedule}}
	})
	fine(t, err)
	if got := p.Spec.Overhead.Cpu().String(); got != "250m" {
		t.Errorf("overhead is %s", got)
	}
	if got := fmt.Sprint(p.Spec.NodeSelector); got != "map[disk:fast kvm:yes]" {
		t.Errorf("node selector is %s", got)
	}
	// What the class tolerates covers what the Pod does; the other two are those that every Pod gets.
	if got := p.Spec.Tolerations; len(got) != 3 {
		t.Errorf("tolerations are %+v", got)
	}
	_, err = create("x", func(s *corev1.PodSpec) { vm(s); s.NodeSelector = map[string]string{"kvm": "no"} })
	refused(t, err, "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no")
	_, err = create("x", func(s *corev1.PodSpec) { vm(s); s.Overhead = resources("cpu", "1") })
	refused(t, err, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	const alone = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
	_, err = create("x", func(s *corev1.PodSpec) { s.Overhead = resources("cpu", "1") })
	refused(t, err, alone)
	_, err = create("x", func(s *corev1.PodSpec) { s.RuntimeClassName, s.Overhead = ptr("bare"), resources("cpu", "1") })
	refused(t, err, alone)
}

func defaultIngressClass(t *testing.T, c *cluster) {
	ingresses := c.system.NetworkingV1().Ingresses("default")
	create := func(name string, change func(*networkingv1.Ingress)) string {
		t.Helper()
		i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
		change(i)
		made, err := ingresses.Create(ctx, i, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		if made.Spec.IngressClassName == nil {
			return ""
		}
		return *made.Spec.IngressClassName
	}
	plain := func(*networkingv1.Ingress) {}
	if got := create("a", plain); got != "" {
		t.Errorf("without a default class the class is %q", got)
	}
	for name, isDefault := range map[string]string{"other": "false", "main": "true"} {
		class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			networkingv1.AnnotationIsDefaultIngressClass: isDefault}}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/c"}}
		_, err := c.system.NetworkingV1().IngressClasses().Create(ctx, class, metav1.CreateOptions{})
		fine(t, err)
	}
	settle(t, func() error {
		if got := create("a", plain); got != "main" {
			return fmt.Errorf("class is %q, want the default", got)
		}
		return nil
	})
	if got := create("a", func(i *networkingv1.Ingress) { i.Spec.IngressClassName = ptr("other") }); got != "other" {
		t.Errorf("class that was asked for became %q", got)
	}
	if got := create("a", func(i *networkingv1.Ingress) { i.Annotations = map[string]string{"kubernetes.io/ingress.class": "old"} }); got != "" {
		t.Errorf("an Ingress with the old annotation got class %q", got)
	}
}

func topologyLabels(t *testing.T, c *cluster) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "placed", Labels: map[string]string{
		corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1", "other": "x"}}}
	_, err := c.system.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	fine(t, err)
	settle(t, func() error { // admission goes by what its informer has seen
		p := podOf("probe", nil, nil)
		p.Spec.NodeName = "placed"
		p, err := c.system.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && fmt.Sprint(p.Labels) != "map[topology.kubernetes.io/region:r1 topology.kubernetes.io/zone:z1]" {
			err = fmt.Errorf("labels of a Pod that comes with its node are %v", p.Labels)
		}
		return err
	})
	p := c.pod(t, "to-place", "", func(p *corev1.Pod) { p.Labels = map[string]string{corev1.LabelTopologyZone: "mine"} })
	fine(t, c.system.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		Target: corev1.ObjectReference{Kind: "Node", Name: "placed"}}, metav1.CreateOptions{}))
	p, err = c.system.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
	fine(t, err)
	if got := fmt.Sprint(p.Labels); got != "map[topology.kubernetes.io/region:r1 topology.kubernetes.io/zone:mine]" {
		t.Errorf("labels of a bound Pod are %s", got)
	}
}
