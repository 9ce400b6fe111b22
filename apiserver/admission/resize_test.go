package admission_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestResize resizes Pods of nodes that have as much, that have less, that cannot, and that are not there.
func TestResize(t *testing.T) {
	c := start(t)
	for name, system := range map[string]string{"lin": "linux", "win": "windows"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: system}}}
		node, err := c.system.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		fine(t, err)
		node.Status.Allocatable = resources("cpu", "2", "memory", "1Gi", "pods", "110")
		_, err = c.system.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		fine(t, err)
	}
	pods := c.system.CoreV1().Pods("default")
	resized := func(name string, node string, cpu, memory string) error {
		p := podOf(name, resources("cpu", "1", "memory", "512Mi"), nil)
		p.Spec.NodeName = node
		p, err := pods.Create(ctx, p, metav1.CreateOptions{})
		fine(t, err)
		p.Spec.Containers[0].Resources.Requests = resources("cpu", cpu, "memory", memory)
		_, err = pods.UpdateResize(ctx, name, p, metav1.UpdateOptions{})
		return err
	}
	// An informer tells the plugin of nodes: ask until it has.
	settle(t, func() error { return errors.Join(tryResize(c.system, "lin"), tryResize(c.system, "win")) })
	fine(t, resized("fits", "lin", "2", "1Gi"))
	fine(t, resized("unbound", "", "64", "64Gi"))
	err := resized("huge", "lin", "2001m", "2Gi")
	refused(t, err, "node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824")
	if causes := causesOf(err); len(causes) != 1 || causes[0].Type != "NodeCapacity" {
		t.Errorf("causes %v", causes)
	}
	err = resized("elsewhere", "win", "2", "1Gi")
	refused(t, err, `pod resize is only supported on linux nodes, node "win" is "windows"`)
	if causes := causesOf(err); len(causes) != 1 || causes[0].Type != "UnsupportedPlatform" {
		t.Errorf("causes %v", causes)
	}
	refused(t, resized("lost", "nowhere", "2", "1Gi"), `node "nowhere" not found`)

	fine(t, resized("ranged", "lin", "1", "1Gi"))
	_, err = c.system.CoreV1().LimitRanges("default").Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypePod, Max: resources("memory", "768Mi")}}}}, metav1.CreateOptions{})
	fine(t, err)
	settle(t, func() error { // an informer tells the other plugin of ranges
		p, err := pods.Get(ctx, "ranged", metav1.GetOptions{})
		if err != nil {
			return err
		}
		p.Spec.Containers[0].Resources.Requests = resources("cpu", "1", "memory", "900Mi")
		_, err = pods.UpdateResize(ctx, "ranged", p, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "maximum memory usage per Pod is 768Mi") {
			return nil
		}
		return fmt.Errorf("the range is not kept: %v", err)
	})
}

// TestDeclaredFeatures resizes what not every node can, of Pods on nodes that declare it and on one that does not.
func TestDeclaredFeatures(t *testing.T) {
	c := start(t)
	for name, features := range map[string][]string{
		"new": {"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"}, "old": {"Another"},
	} {
		node, err := c.system.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		fine(t, err)
		node.Status.Allocatable, node.Status.DeclaredFeatures = resources("cpu", "8", "memory", "1Gi", "pods", "110"), features
		_, err = c.system.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		fine(t, err)
	}
	pods := c.system.CoreV1().Pods("default")
	made := map[string]*corev1.Pod{}
	for _, node := range []string{"new", "old", "none", ""} {
		p := podOf("on-"+node+"0", resources("cpu", "1"), nil)
		p.Spec.NodeName, p.Spec.Resources = node, &corev1.ResourceRequirements{Requests: resources("cpu", "2")}
		p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
		p.Spec.InitContainers[0].Name = "init"
		p, err := pods.Create(ctx, p, metav1.CreateOptions{})
		fine(t, err)
		made[node] = p
	}
	resized := func(node string, change func(*corev1.PodSpec)) error {
		p := made[node].DeepCopy()
		change(&p.Spec)
		_, err := pods.UpdateResize(ctx, p.Name, p, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	whole := func(s *corev1.PodSpec) { s.Resources.Requests = resources("cpu", "3") }
	init := func(s *corev1.PodSpec) { s.InitContainers[0].Resources.Requests = resources("cpu", "2") }
	one := func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests = resources("cpu", "1500m") }
	// An informer tells the plugins of nodes: ask until it has.
	settle(t, func() error { return errors.Join(resized("new", whole), resized("old", one)) })
	fine(t, resized("new", init))
	fine(t, resized("", whole))
	refused(t, resized("old", whole), `pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "old"`)
	refused(t, resized("old", init), `pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node "old"`)
	refused(t, resized("old", func(s *corev1.PodSpec) { whole(s); init(s) }),
		`pod update requires features InPlacePodLevelResourcesVerticalScaling, InPlacePodVerticalScalingInitContainers which are not available on node "old"`)
	refused(t, resized("none", whole), `node "none" not found`)
	made["old"].Labels = map[string]string{"a": "b"}
	_, err := pods.Update(ctx, made["old"], metav1.UpdateOptions{})
	fine(t, err)
}

// tryResize fails while the plugin does not know the node as it is.
func tryResize(client kubernetes.Interface, node string) error {
	pods := client.CoreV1().Pods("default")
	p := podOf("probe-"+node, resources("cpu", "1"), nil)
	p.Spec.NodeName = node
	p, err := pods.Create(ctx, p, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		p, err = pods.Get(ctx, "probe-"+node, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	p.Spec.Containers[0].Resources.Requests = resources("cpu", "3")
	_, err = pods.UpdateResize(ctx, p.Name, p, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	if causes := causesOf(err); len(causes) == 1 && (node == "win" || err.Error() == `pods "probe-lin" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000`) {
		return nil
	}
	return errors.Join(errors.New("the plugin does not know "+node), err)
}

func causesOf(err error) []metav1.StatusCause {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Details == nil {
		return nil
	}
	return status.ErrStatus.Details.Causes
}
