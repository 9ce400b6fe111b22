package devicetainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

// start runs the controller on a server with a slice of driver d, pool p, that has the devices a and b, and one that the driver has not yet
// taken away, of an earlier generation.
func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, New)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Resource().V1().DeviceTaintRules().Informer())
	for name, s := range map[string]*resourcev1.ResourceSlice{"s": slice(2, device("a"), device("b")), "old": slice(1, device("a"))} {
		s.Name, s.Spec.NodeName = name, ptr.To("n1")
		s.Spec.Driver = driver
		if _, err := w.Client.ResourceV1().ResourceSlices().Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

const driver = "d.example.com"

// taint has a device of the slice tainted, or no longer.
func taint(t *testing.T, w *controltest.World, device int, taints ...resourcev1.DeviceTaint) {
	t.Helper()
	slices := w.Client.ResourceV1().ResourceSlices()
	s, err := slices.Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Devices[device].Taints = taints
	if _, err := slices.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// user makes a Pod on a node, which stays to be looked at when it was deleted, with a claim of its name that has the device.
func user(t *testing.T, w *controltest.World, name, device string, tolerations ...resourcev1.DeviceToleration) *corev1.Pod {
	t.Helper()
	ctx := t.Context()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{"example.com/look"}}, Spec: controltest.Template(nil).Spec}
	p.Spec.NodeName = "n1"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &name}}
	p, err := w.Client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claims := w.Client.ResourceV1().ResourceClaims(ns)
	request := resourcev1.DeviceRequest{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Tolerations: tolerations}}
	c, err := claims.Create(ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{resourcev1.Finalizer}},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "gpu", Driver: driver, Pool: "p", Device: device, Tolerations: tolerations}}}}
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: p.UID}}
	if _, err := claims.UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return p
}

// deleted waits until the Pod is being deleted, and checks what its status says about it.
func deleted(t *testing.T, w *controltest.World, name string) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	w.Await(t, "deletion of Pod "+name, func() bool {
		got, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p = got
		return p.DeletionTimestamp != nil
	})
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			if c.Status != corev1.ConditionTrue || c.Reason != "DeletionByDeviceTaintManager" || c.Message != "Device Taint manager: deleting due to NoExecute taint" {
				t.Errorf("condition of Pod %s: %+v", name, c)
			}
			return p
		}
	}
	t.Errorf("Pod %s does not say why it goes: %+v", name, p.Status.Conditions)
	return p
}

// stays checks that a Pod that was there before is not being deleted.
func stays(t *testing.T, w *controltest.World, names ...string) {
	t.Helper()
	for _, name := range names {
		p, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if p.DeletionTimestamp != nil || len(p.Status.Conditions) > 0 {
			t.Errorf("Pod %s: deleted at %v, conditions %v", name, p.DeletionTimestamp, p.Status.Conditions)
		}
	}
}

func now(effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: "k", Value: "v", Effect: effect}
}

// A taint that comes while Pods run ends those that do not tolerate it, and no other.
func TestTaintedDevices(t *testing.T) {
	w := start(t)
	user(t, w, "other-device", "b")
	user(t, w, "patient", "a", tolerates("k", resourcev1.DeviceTaintEffectNoExecute))
	user(t, w, "for-now", "a", tolerates("k", resourcev1.DeviceTaintEffectNoExecute, 3600))
	user(t, w, "sensitive", "a")
	taint(t, w, 0, now(resourcev1.DeviceTaintEffectNoExecute), resourcev1.DeviceTaint{Key: "l", Effect: resourcev1.DeviceTaintEffectNone})
	w.Event(t, "sensitive", "DeviceTaintManagerEviction", "Marking for deletion")
	deleted(t, w, "sensitive")
	stays(t, w, "other-device", "patient", "for-now")

	// A Pod that comes to the device now goes, too.
	user(t, w, "late", "a")
	deleted(t, w, "late")

	// The Pod that was to go in an hour stays without the taint.
	taint(t, w, 0, now(resourcev1.DeviceTaintEffectNoSchedule))
	w.Event(t, "for-now", "DeviceTaintManagerEviction", "Cancelling deletion")
	stays(t, w, "other-device", "patient", "for-now")
	list, err := w.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=patient"})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("events of one that was to stay: %v, %v", list.Items, err)
	}
}

// A Pod goes when what it tolerates is over.
func TestTolerationEnds(t *testing.T) {
	w := start(t)
	user(t, w, "brief", "a", tolerates("k", resourcev1.DeviceTaintEffectNoExecute, 2))
	came := metav1.Now().Rfc3339Copy()
	k := now(resourcev1.DeviceTaintEffectNoExecute)
	k.TimeAdded = &came
	taint(t, w, 0, k)
	if p := deleted(t, w, "brief"); p.DeletionTimestamp.Sub(came.Time) < 2*time.Second {
		t.Errorf("the taint came at %s, and the Pod was deleted at %s", came, p.DeletionTimestamp)
	}
}

// reported waits until the rule's condition has a reason, and returns its message.
func reported(t *testing.T, w *controltest.World, name, reason string) string {
	t.Helper()
	var c *metav1.Condition
	w.Await(t, "report of rule "+name, func() bool {
		r, err := w.Client.ResourceV1().DeviceTaintRules().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c = meta.FindStatusCondition(r.Status.Conditions, "EvictionInProgress")
		return c != nil && c.Reason == reason && c.ObservedGeneration == r.Generation
	})
	return c.Message
}

// A rule is tried without effect, then evicts; its status tells of both.
func TestRules(t *testing.T) {
	w := start(t)
	user(t, w, "other-device", "b")
	user(t, w, "sensitive", "a")
	rules := w.Client.ResourceV1().DeviceTaintRules()
	r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To(driver), Device: ptr.To("a")}, Taint: now(resourcev1.DeviceTaintEffectNone)}}
	if _, err := rules.Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const want = "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. " +
		"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	if got := reported(t, w, "r", "NoEffect"); got != want {
		t.Errorf("got %q", got)
	}
	stays(t, w, "sensitive", "other-device")

	r, err := rules.Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	if _, err := rules.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted(t, w, "sensitive")
	stays(t, w, "other-device")
	if got := reported(t, w, "r", "Completed"); got != "1 pod evicted since starting the controller." {
		t.Errorf("got %q", got)
	}
}

// Nothing is followed before there is a claim with devices.
func TestIdle(t *testing.T) {
	var c *controller
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		r, err := New(d)
		if err == nil {
			c = r.(*controller)
		}
		return r, err
	})
	w.Watch(t, w.Informers.Resource().V1().ResourceClaims().Informer())
	if _, err := w.Client.ResourceV1().ResourceClaims(ns).Create(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "idle"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the claim", func() bool {
		_, err := c.claims.ResourceClaims(ns).Get("idle")
		return err == nil
	})
	select {
	case <-c.needed:
		t.Error("a claim without devices has all devices followed")
	default:
	}
	user(t, w, "first", "a")
	<-c.needed
}
