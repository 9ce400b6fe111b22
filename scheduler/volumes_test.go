package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
	"github.com/peapod/peapod/test/controltest"
)

// storeWorld is a scheduler on a real API server; the test plays the volume controller, the provisioner and the kubelet.
type storeWorld struct {
	*controltest.World
	events *events.FakeRecorder
}

func startWithStorage(t *testing.T, timeout time.Duration, nodes ...string) *storeWorld {
	t.Helper()
	w := &storeWorld{events: events.NewFakeRecorder(1000)}
	w.World = controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		return New(Config{Client: d.Client, Informers: d.Informers, Recorder: w.events, VolumeBindTimeout: timeout})
	})
	core := w.Informers.Core().V1()
	w.Watch(t, core.Pods().Informer())
	w.Watch(t, core.PersistentVolumes().Informer())
	w.Watch(t, core.PersistentVolumeClaims().Informer())
	for _, name := range nodes {
		n := node(name, map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: "zone-" + name})
		must(t)(w.Client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}))
		must(t)(w.Client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}))
	}
	must(t)(w.Client.StorageV1().StorageClasses().Create(t.Context(), class("later", "test.io/maker"), metav1.CreateOptions{}))
	must(t)(w.Client.StorageV1().StorageClasses().Create(t.Context(), class("static", volume.NotSupportedProvisioner), metav1.CreateOptions{}))
	return w
}

// must fails the test on an error.
func must(t *testing.T) func(_ any, err error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func class(name, provisioner string) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
}

func claim(name, class, size string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	if modes == nil {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
}

// volumeOn is an available volume that only the node reaches; an empty name is any node.
func volumeOn(name, class, size, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
		Spec: corev1.PersistentVolumeSpec{StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}}}}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	}
	return v
}

func withClaims(p *corev1.Pod, claims ...string) *corev1.Pod {
	p.Spec.Containers[0].Image = "image"
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return p
}

func bound(c *corev1.PersistentVolumeClaim, v string) *corev1.PersistentVolumeClaim {
	c.Spec.VolumeName = v
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	c.Status.Phase = corev1.ClaimBound
	return c
}

func (w *storeWorld) putVolume(t *testing.T, v *corev1.PersistentVolume) {
	t.Helper()
	made, err := w.Client.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{})
	must(t)(made, err)
	made.Status = v.Status
	must(t)(w.Client.CoreV1().PersistentVolumes().UpdateStatus(t.Context(), made, metav1.UpdateOptions{}))
}

func (w *storeWorld) putClaim(t *testing.T, c *corev1.PersistentVolumeClaim) {
	t.Helper()
	must(t)(w.Client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), c, metav1.CreateOptions{}))
}

func (w *storeWorld) putPod(t *testing.T, p *corev1.Pod) {
	t.Helper()
	p.UID = ""
	must(t)(w.Client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}))
}

// change updates a claim until nobody else's write is in between.
func (w *storeWorld) change(t *testing.T, name string, change func(*corev1.PersistentVolumeClaim)) {
	t.Helper()
	for {
		c, err := w.Client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		must(t)(c, err)
		change(c)
		phase := c.Status.Phase
		c, err = w.Client.CoreV1().PersistentVolumeClaims("default").Update(t.Context(), c, metav1.UpdateOptions{})
		if err == nil && c.Status.Phase != phase {
			c.Status.Phase = phase
			c, err = w.Client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
		}
		if !apierrors.IsConflict(err) {
			must(t)(c, err)
			return
		}
	}
}

// awaitNode waits until the Pod has a node and returns it.
func (w *storeWorld) awaitNode(t *testing.T, pod string) (node string) {
	t.Helper()
	w.Await(t, pod+" has a node", func() bool {
		p, err := w.Informers.Core().V1().Pods().Lister().Pods("default").Get(pod)
		if err == nil {
			node = p.Spec.NodeName
		}
		return node != ""
	})
	return node
}

// awaitReserved waits until a volume is reserved for the claim and returns its name.
func (w *storeWorld) awaitReserved(t *testing.T, claim string) (name string) {
	t.Helper()
	w.Await(t, "a volume for "+claim, func() bool {
		for _, obj := range w.Informers.Core().V1().PersistentVolumes().Informer().GetStore().List() {
			if v := obj.(*corev1.PersistentVolume); v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Name == claim {
				name = v.Name
			}
		}
		return name != ""
	})
	return name
}

// awaitSelected waits until a node is selected for the claim and returns it.
func (w *storeWorld) awaitSelected(t *testing.T, claim string) (node string) {
	t.Helper()
	w.Await(t, "a node for "+claim, func() bool {
		c, err := w.Informers.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims("default").Get(claim)
		if err == nil {
			node = c.Annotations[volume.AnnSelectedNode]
		}
		return node != ""
	})
	return node
}

// wantEvent reads events up to one that contains want.
func (w *storeWorld) wantEvent(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case e := <-w.events.Events:
			if strings.Contains(e, want) {
				return
			}
		case <-deadline:
			t.Fatalf("no event with %q", want)
		}
	}
}

// The smallest volume that fits is taken, on the node where it is, and the Pod waits until the claim is bound.
func TestBindsTheSmallestVolumeThatFits(t *testing.T) {
	w := startWithStorage(t, 0, "n1", "n2")
	w.putVolume(t, volumeOn("small", "static", "1Gi", "n1"))
	w.putVolume(t, volumeOn("right", "static", "5Gi", "n2"))
	w.putVolume(t, volumeOn("large", "static", "50Gi", "n2"))
	w.putClaim(t, claim("data", "static", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	if got := w.awaitReserved(t, "data"); got != "right" {
		t.Fatalf("reserved %s", got)
	}
	v, err := w.Client.CoreV1().PersistentVolumes().Get(t.Context(), "right", metav1.GetOptions{})
	must(t)(v, err)
	c, err := w.Client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "data", metav1.GetOptions{})
	must(t)(c, err)
	if v.Spec.ClaimRef.UID != c.UID || v.Annotations[volume.AnnBoundByController] != "yes" {
		t.Errorf("reserved for %v with annotations %v", v.Spec.ClaimRef, v.Annotations)
	}
	p, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	if must(t)(p, err); p.Spec.NodeName != "" {
		t.Errorf("bound to %s before its claim", p.Spec.NodeName)
	}
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { bound(c, "right") })
	if got := w.awaitNode(t, "p"); got != "n2" {
		t.Errorf("on %s", got)
	}
}

// Pods that come together do not get one volume, though the API shows the first one's only later.
func TestVolumesAreTakenOnce(t *testing.T) {
	w := startWithStorage(t, 0, "n1")
	for i := range 3 {
		w.putVolume(t, volumeOn(fmt.Sprint("v", i), "static", "1Gi", "n1"))
		w.putClaim(t, claim(fmt.Sprint("c", i), "static", "1Gi"))
	}
	for i := range 3 {
		w.putPod(t, withClaims(pod(fmt.Sprint("p", i), ""), fmt.Sprint("c", i)))
	}
	seen := map[string]bool{}
	for i := range 3 {
		name := w.awaitReserved(t, fmt.Sprint("c", i))
		if seen[name] {
			t.Fatalf("%s was reserved twice", name)
		}
		seen[name] = true
		w.change(t, fmt.Sprint("c", i), func(c *corev1.PersistentVolumeClaim) { bound(c, name) })
	}
	for i := range 3 {
		w.awaitNode(t, fmt.Sprint("p", i))
	}
}

// A provisioner that cannot takes the node's name back: the Pod says so, and another try follows.
func TestProvisioningFailsAndIsTriedAgain(t *testing.T) {
	w := startWithStorage(t, 0, "n1")
	w.putClaim(t, claim("data", "later", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.awaitSelected(t, "data")
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volume.AnnSelectedNode) })
	w.wantEvent(t, `running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data"`)
	if got := w.awaitSelected(t, "data"); got != "n1" {
		t.Errorf("selected %s", got)
	}
	v := volumeOn("made", "later", "2Gi", "n1")
	w.putVolume(t, v)
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { bound(c, "made") })
	w.awaitNode(t, "p")
}

// While a Pod waits for its volumes, its status says where it is going to be; no longer if that fails, and not when it is there.
func TestSaysWhereItWaitsForVolumes(t *testing.T) {
	w := startWithStorage(t, 0, "n1")
	said := make(chan string, 100)
	last := ""
	if _, err := w.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, obj any) {
		if now := obj.(*corev1.Pod).Status.NominatedNodeName; now != last {
			last = now
			said <- now
		}
	}}); err != nil {
		t.Fatal(err)
	}
	wantSaid := func(want ...string) {
		t.Helper()
		for _, name := range want {
			select {
			case got := <-said:
				if got != name {
					t.Fatalf("the Pod says %q, want %q", got, name)
				}
			case <-time.After(time.Minute):
				t.Fatalf("the Pod does not say %q", name)
			}
		}
	}
	w.putClaim(t, claim("data", "later", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.awaitSelected(t, "data")
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volume.AnnSelectedNode) })
	wantSaid("n1", "", "n1")
	w.awaitSelected(t, "data")
	w.putVolume(t, volumeOn("made", "later", "2Gi", "n1"))
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { bound(c, "made") })
	w.awaitNode(t, "p")
	wantSaid("")
}

// Two Pods that share a claim which is being provisioned go to its node, both when it is there.
func TestClaimIsShared(t *testing.T) {
	w := startWithStorage(t, 0, "n1", "n2", "n3")
	w.putClaim(t, claim("data", "later", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.putPod(t, withClaims(pod("q", ""), "data"))
	n := w.awaitSelected(t, "data")
	w.putVolume(t, volumeOn("made", "later", "2Gi", n))
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { bound(c, "made") })
	if a, b := w.awaitNode(t, "p"), w.awaitNode(t, "q"); a != n || b != n {
		t.Errorf("volume on %s, Pods on %s and %s", n, a, b)
	}
}

func TestBindingTimesOut(t *testing.T) {
	w := startWithStorage(t, time.Millisecond, "n1")
	w.putClaim(t, claim("data", "later", "2Gi"))
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.wantEvent(t, `binding volumes: context deadline exceeded`)
}

// A Pod waits for its claim and is tried when it appears.
func TestMissingClaimAppears(t *testing.T) {
	w := startWithStorage(t, 0, "n1")
	w.putPod(t, withClaims(pod("p", ""), "data"))
	w.wantEvent(t, `0/1 nodes are available: persistentvolumeclaim "data" not found. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.`)
	w.putClaim(t, claim("data", "later", "2Gi"))
	w.awaitSelected(t, "data")
}

// A claim for one Pod is for one Pod: the second waits until the first has gone, or preempts it.
func TestReadWriteOncePod(t *testing.T) {
	w := startWithStorage(t, 0, "n1", "n2")
	v := volumeOn("v", "static", "1Gi", "")
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	w.putVolume(t, v)
	w.putClaim(t, claim("data", "static", "1Gi", corev1.ReadWriteOncePod))
	w.putPod(t, withClaims(prioritized(pod("first", ""), 5), "data"))
	w.awaitReserved(t, "data")
	w.change(t, "data", func(c *corev1.PersistentVolumeClaim) { bound(c, "v") })
	w.awaitNode(t, "first")
	w.putPod(t, withClaims(prioritized(pod("second", ""), 5), "data"))
	w.wantEvent(t, "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode. "+
		"no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.")
	if err := w.Client.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	w.awaitNode(t, "second")
	w.putPod(t, withClaims(prioritized(pod("third", ""), 10), "data"))
	w.wantEvent(t, "Preempted by pod")
	// The test plays the kubelet of the victim.
	if err := w.Client.CoreV1().Pods("default").Delete(t.Context(), "second", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	w.awaitNode(t, "third")
}

// TestVolumeReasons: why no node will do, as upstream words it.
func TestVolumeReasons(t *testing.T) {
	elsewhere := volumeOn("elsewhere", "static", "1Gi", "n9")
	zoned := volumeOn("zoned", "static", "1Gi", "")
	zoned.Labels = map[string]string{corev1.LabelTopologyZone: "zone-b__zone-c"}
	here := volumeOn("here", "static", "1Gi", "n1")
	here.Labels = map[string]string{corev1.LabelFailureDomainBetaZone: "zone-a__zone-c"}
	going := claim("going", "static", "1Gi")
	going.DeletionTimestamp = ptr.To(metav1.Now())
	lost := bound(claim("lost", "static", "1Gi"), "gone")
	lost.Status.Phase = corev1.ClaimLost
	selected := claim("selected", "later", "1Gi")
	selected.Annotations = map[string]string{volume.AnnSelectedNode: "n9"}
	named := claim("named", "later", "1Gi")
	named.Spec.VolumeName = "here"
	alien := withClaims(pod("p", ""))
	alien.Spec.Volumes = []corev1.Volume{{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	narrow := class("narrow", "test.io/maker")
	narrow.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"zone-b"}}}}}
	const noVolume = "1 node(s) didn't find available persistent volumes to bind"
	for name, c := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		pod   *corev1.Pod
		want  string
	}{
		"missing":         {nil, nil, `persistentvolumeclaim "c" not found`},
		"going":           {going, nil, `persistentvolumeclaim "going" is being deleted`},
		"lost":            {lost, nil, `persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone"`},
		"no class":        {claim("c", "", "1Gi"), nil, "pod has unbound immediate PersistentVolumeClaims"},
		"named":           {named, nil, "pod has unbound immediate PersistentVolumeClaims"},
		"elsewhere":       {bound(claim("c", "static", "1Gi"), "elsewhere"), nil, "1 node(s) didn't match PersistentVolume's node affinity"},
		"volume gone":     {bound(claim("c", "static", "1Gi"), "none"), nil, `persistentvolume "none" not found`},
		"zone":            {bound(claim("c", "static", "1Gi"), "zoned"), nil, "1 node(s) had no available volume zone"},
		"zone fits":       {bound(claim("c", "static", "1Gi"), "here"), nil, ""},
		"too large":       {claim("c", "static", "2Gi"), nil, noVolume},
		"too many modes":  {claim("c", "static", "1Gi", corev1.ReadWriteMany), nil, noVolume},
		"fits":            {claim("c", "static", "1Gi"), nil, ""},
		"made elsewhere":  {selected, nil, noVolume},
		"can be made":     {claim("c", "later", "1Gi"), nil, ""},
		"not there":       {claim("c", "narrow", "1Gi"), nil, noVolume},
		"ephemeral":       {nil, alien, `waiting for ephemeral volume controller to create the persistentvolumeclaim "p-own"`},
		"ephemeral alien": {claim("p-own", "later", "1Gi"), alien, "PVC default/p-own was not created for pod default/p (pod is not owner)"},
	} {
		k := cluster.New(func(string) map[string]string { return nil })
		k.SetNode(node("n1", map[string]string{corev1.LabelHostname: "n1", corev1.LabelTopologyZone: "zone-a"}))
		storage := k.View().Storage
		for _, v := range []*corev1.PersistentVolume{elsewhere, here} {
			storage.SetVolume(v)
		}
		if name == "zone" {
			storage.SetVolume(zoned) // any unbound claim would take it
		}
		for _, s := range []*storagev1.StorageClass{class("later", "test.io/maker"), class("static", volume.NotSupportedProvisioner), narrow} {
			storage.SetClass(s)
		}
		p := c.pod
		if p == nil {
			p = withClaims(pod("p", ""), "c")
		}
		if c.claim != nil {
			storage.SetClaim(c.claim)
			if c.pod == nil {
				p = withClaims(pod("p", ""), c.claim.Name)
			}
		}
		d := cycle.New(plugins.All()).Decide(framework.NewPod(p), k.View())
		got, _ := strings.CutPrefix(d.Short, "0/1 nodes are available: ")
		if got = strings.TrimSuffix(got, "."); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// What one Pod's plan has taken is not there for the next one, until the plan is released.
func TestAssumedVolumesAreTaken(t *testing.T) {
	storage := framework.NewStorage()
	storage.SetClass(class("static", volume.NotSupportedProvisioner))
	storage.SetVolume(volumeOn("v", "static", "1Gi", "n1"))
	n := node("n1", map[string]string{corev1.LabelHostname: "n1"})
	var pods []*framework.Pod
	for _, name := range []string{"p", "q"} {
		c := claim(name, "static", "1Gi")
		c.UID = types.UID(name)
		storage.SetClaim(c)
		pods = append(pods, framework.NewPod(withClaims(pod(name, ""), name)))
	}
	plan, err := volumebinding.Plan(pods[0], storage, n)
	if err != nil || len(plan.Volumes) != 1 || plan.Volumes[0].Spec.ClaimRef.Name != "p" {
		t.Fatalf("plan %v, %v", plan, err)
	}
	storage.Assume("p", plan)
	if plan, err := volumebinding.Plan(pods[1], storage, n); err == nil {
		t.Errorf("the volume was taken twice: %v", plan)
	}
	if again, err := volumebinding.Plan(pods[0], storage, n); err != nil || len(again.Volumes) != 0 || len(again.Waited) != 1 {
		t.Errorf("the claim's own volume: %v, %v", again, err)
	}
	storage.Release("p")
	if _, err := volumebinding.Plan(pods[1], storage, n); err != nil {
		t.Error(err)
	}
}
