package plugins_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/nodeaffinity"
	"github.com/peapod/peapod/scheduler/plugins/nodedeclaredfeatures"
	"github.com/peapod/peapod/scheduler/plugins/noderesources"
	"github.com/peapod/peapod/scheduler/plugins/podaffinity"
	"github.com/peapod/peapod/scheduler/plugins/tainttoleration"
	"github.com/peapod/peapod/scheduler/plugins/topologyspread"
	"github.com/peapod/peapod/scheduler/plugins/volumerestrictions"
)

// sized is a node with room for Pods, and so much else.
func sized(cpu, memory string) *corev1.Node {
	n := node("n", cpu, memory)
	n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("10")
	return n
}

func labelled(p *corev1.Pod, app string) *corev1.Pod {
	p.Labels = map[string]string{"app": app}
	return p
}

func with(n *corev1.Node, change func(*corev1.Node)) *corev1.Node {
	change(n)
	return n
}

func TestWhatHelps(t *testing.T) {
	taint := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }
	ssd := func(n *corev1.Node) { n.Labels["disk"] = "ssd" }
	selecting := pod("p", "1", "1Gi")
	selecting.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	going := labelled(pod("q"), "a")
	going.DeletionTimestamp = new(metav1.Now())
	elsewhere := labelled(pod("q"), "a")
	elsewhere.Namespace = "other"
	selecting.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
		{TopologyKey: "zone", MaxSkew: 1, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
		{TopologyKey: "zone", MaxSkew: 1, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "soft"}}}}
	near := func(app string, namespaces *metav1.LabelSelector) []corev1.PodAffinityTerm {
		return []corev1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, NamespaceSelector: namespaces}}
	}
	selecting.Labels = map[string]string{"app": "self"}
	selecting.Spec.Affinity = &corev1.Affinity{
		PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near("friend", nil)},
		PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near("foe", &metav1.LabelSelector{})},
	}
	hostile := labelled(pod("q"), "b")
	hostile.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near("self", nil)}}
	foeElsewhere := labelled(pod("q"), "foe")
	foeElsewhere.Namespace = "other"
	friendElsewhere := labelled(pod("q"), "friend")
	friendElsewhere.Namespace = "other"
	app := func(name string) *corev1.Pod { return labelled(pod("q"), name) }
	done := app("foe")
	done.Status.Phase = corev1.PodSucceeded
	amounts := func(p *corev1.Pod) framework.Resources { return framework.NewPod(p).Requests }
	for what, test := range map[string]struct {
		rule framework.Waker
		e    framework.Event
		want bool
	}{
		"fit: a Pod left":                        {noderesources.Fit{}, framework.Event{OldPod: pod("q")}, true},
		"fit: a Pod came":                        {noderesources.Fit{}, framework.Event{NewPod: pod("q")}, false},
		"fit: a Pod needs less cpu":              {noderesources.Fit{}, framework.Event{OldPod: pod("q"), NewPod: pod("q"), OldRequests: amounts(pod("q", "2", "")), NewRequests: amounts(pod("q", "1", ""))}, true},
		"fit: a Pod needs more":                  {noderesources.Fit{}, framework.Event{OldPod: pod("q"), NewPod: pod("q"), OldRequests: amounts(pod("q", "1", "")), NewRequests: amounts(pod("q", "2", ""))}, false},
		"fit: a large node came":                 {noderesources.Fit{}, framework.Event{NewNode: sized("4", "4Gi")}, true},
		"fit: a node came that is too small":     {noderesources.Fit{}, framework.Event{NewNode: sized("500m", "4Gi")}, false},
		"fit: a node has more":                   {noderesources.Fit{}, framework.Event{OldNode: sized("4", "1Gi"), NewNode: sized("4", "2Gi")}, true},
		"fit: a node has more, but not enough":   {noderesources.Fit{}, framework.Event{OldNode: sized("4", "1Mi"), NewNode: sized("4", "2Mi")}, false},
		"fit: a node has less":                   {noderesources.Fit{}, framework.Event{OldNode: sized("4", "4Gi"), NewNode: sized("4", "2Gi")}, false},
		"taints: one that is not tolerated went": {tainttoleration.Plugin{}, framework.Event{OldNode: with(sized("4", "4Gi"), taint), NewNode: sized("4", "4Gi")}, true},
		"taints: there was none before":          {tainttoleration.Plugin{}, framework.Event{OldNode: sized("4", "4Gi"), NewNode: with(sized("4", "4Gi"), ssd)}, false},
		"affinity: the node matches now":         {nodeaffinity.Plugin{}, framework.Event{OldNode: sized("4", "4Gi"), NewNode: with(sized("4", "4Gi"), ssd)}, true},
		"affinity: it matched before":            {nodeaffinity.Plugin{}, framework.Event{OldNode: with(sized("4", "4Gi"), ssd), NewNode: with(with(sized("4", "4Gi"), ssd), func(n *corev1.Node) { n.Labels["x"] = "y" })}, false},
		"spread: a Pod begins to go":             {topologyspread.Plugin{}, framework.Event{OldPod: labelled(pod("q"), "a"), NewPod: going}, true},
		"spread: a Pod stays as it is":           {topologyspread.Plugin{}, framework.Event{OldPod: labelled(pod("q"), "a"), NewPod: labelled(pod("q"), "a")}, false},
		"spread: a Pod of another namespace":     {topologyspread.Plugin{}, framework.Event{OldPod: elsewhere}, false},
		"spread: a Pod that is not counted":      {topologyspread.Plugin{}, framework.Event{NewPod: app("b")}, false},
		"spread: a Pod that is counted":          {topologyspread.Plugin{}, framework.Event{NewPod: app("a")}, true},
		"spread: it is counted now":              {topologyspread.Plugin{}, framework.Event{OldPod: app("b"), NewPod: app("a")}, true},
		"spread: it has another label":           {topologyspread.Plugin{}, framework.Event{OldPod: app("b"), NewPod: app("c")}, false},
		"spread: what is only preferred":         {topologyspread.Plugin{}, framework.Event{NewPod: app("soft")}, false},
		"pods: a friend came":                    {podaffinity.Plugin{}, framework.Event{NewPod: app("friend")}, true},
		"pods: a friend came elsewhere":          {podaffinity.Plugin{}, framework.Event{NewPod: friendElsewhere}, false},
		"pods: another came":                     {podaffinity.Plugin{}, framework.Event{NewPod: app("b")}, false},
		"pods: one became a friend":              {podaffinity.Plugin{}, framework.Event{OldPod: app("b"), NewPod: app("friend")}, true},
		"pods: a friend stays one":               {podaffinity.Plugin{}, framework.Event{OldPod: app("friend"), NewPod: app("friend")}, false},
		"pods: a foe left":                       {podaffinity.Plugin{}, framework.Event{OldPod: app("foe")}, true},
		"pods: a foe of any namespace left":      {podaffinity.Plugin{}, framework.Event{OldPod: foeElsewhere}, true},
		"pods: a foe is done":                    {podaffinity.Plugin{}, framework.Event{OldPod: app("foe"), NewPod: done}, true},
		"pods: a foe is no more one":             {podaffinity.Plugin{}, framework.Event{OldPod: app("foe"), NewPod: app("b")}, true},
		"pods: a foe came":                       {podaffinity.Plugin{}, framework.Event{NewPod: app("foe")}, false},
		"pods: one left that did not want it":    {podaffinity.Plugin{}, framework.Event{OldPod: hostile}, true},
		"pods: a friend left":                    {podaffinity.Plugin{}, framework.Event{OldPod: app("friend")}, false},
		"pods: another left":                     {podaffinity.Plugin{}, framework.Event{OldPod: app("b")}, false},
		"spread: a node's taints changed":        {topologyspread.Plugin{}, framework.Event{OldNode: sized("4", "4Gi"), NewNode: with(sized("4", "4Gi"), taint)}, true},
	} {
		if got := test.rule.Helps(framework.NewPod(selecting), test.e); got != test.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// A Pod that wants those near which are like itself goes anywhere when the last of them has gone, from a node that was full, say.
func TestFirstOfItsGroupAgain(t *testing.T) {
	kin := labelled(pod("p"), "kin")
	kin.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kin"}}}}}}
	for what, test := range map[string]struct {
		e    framework.Event
		want bool
	}{
		"one of them left":      {framework.Event{OldPod: labelled(pod("q"), "kin")}, true},
		"one is none any more":  {framework.Event{OldPod: labelled(pod("q"), "kin"), NewPod: labelled(pod("q"), "b")}, true},
		"another left":          {framework.Event{OldPod: labelled(pod("q"), "b")}, false},
		"another has new label": {framework.Event{OldPod: labelled(pod("q"), "b"), NewPod: labelled(pod("q"), "c")}, false},
	} {
		if got := (podaffinity.Plugin{}).Helps(framework.NewPod(kin), test.e); got != test.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// A Pod that needs a feature goes to nodes that declare it; others go anywhere, and ask no node.
func TestDeclaredFeatures(t *testing.T) {
	const feature = "RestartAllContainersOnContainerExits"
	declaring := func(features ...string) *corev1.Node {
		return with(sized("4", "4Gi"), func(n *corev1.Node) { n.Status.DeclaredFeatures = features })
	}
	p := pod("p", "1", "1Gi")
	rule := nodedeclaredfeatures.Plugin{}
	if check, none := rule.Prepare(framework.NewPod(p), nil); check != nil || none.Verdict != framework.Fits {
		t.Errorf("a Pod that needs nothing asks nodes: %t, %v", check != nil, none)
	}
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
	demanding := framework.NewPod(p)
	check, none := rule.Prepare(demanding, nil)
	if check == nil || none.Verdict != framework.Fits {
		t.Fatalf("a Pod that needs a feature asks no node: %v", none)
	}
	for _, test := range []struct {
		features []string
		fits     bool
	}{{nil, false}, {[]string{"Another"}, false}, {[]string{feature}, true}, {[]string{"Another", feature, "Zoo"}, true}} {
		reasons := check(newCluster(declaring(test.features...)).View().Nodes[0])
		if fits := len(reasons) == 0; fits != test.fits || !fits && (reasons[0].Message != "node(s) didn't match Pod's required features" || reasons[0].Verdict != framework.Wrong) {
			t.Errorf("a node that declares %v: %v", test.features, reasons)
		}
	}
	for what, test := range map[string]struct {
		e    framework.Event
		want bool
	}{
		"a node came that has it":       {framework.Event{NewNode: declaring(feature)}, true},
		"a node came without":           {framework.Event{NewNode: declaring()}, false},
		"a node declares it now":        {framework.Event{OldNode: declaring(), NewNode: declaring(feature)}, true},
		"a node declares something new": {framework.Event{OldNode: declaring(), NewNode: declaring("Another")}, false},
		"it was declared before":        {framework.Event{OldNode: declaring(feature), NewNode: declaring(feature)}, false},
		"a Pod left":                    {framework.Event{OldPod: pod("q")}, false},
	} {
		if got := rule.Helps(demanding, test.e); got != test.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}

// A disk that one machine can use once, or read only, keeps a second Pod away while the first is there.
func TestDisks(t *testing.T) {
	withVolume := func(name string, v corev1.VolumeSource) *corev1.Pod {
		p := pod(name)
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: v}}
		return p
	}
	gce := func(name string, readOnly bool) corev1.VolumeSource {
		return corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: name, ReadOnly: readOnly}}
	}
	aws := func(id string, readOnly bool) corev1.VolumeSource {
		return corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: id, ReadOnly: readOnly}}
	}
	rbd := func(monitors ...string) corev1.VolumeSource {
		return corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{CephMonitors: monitors, RBDPool: "p", RBDImage: "i"}}
	}
	iscsi := func(iqn string) corev1.VolumeSource {
		return corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{IQN: iqn}}
	}
	for what, test := range map[string]struct {
		there, wanted corev1.VolumeSource
		fits          bool
	}{
		"the same disk":               {gce("d", false), gce("d", false), false},
		"one of two writes":           {gce("d", true), gce("d", false), false},
		"both read":                   {gce("d", true), gce("d", true), true},
		"another disk":                {gce("d", false), gce("e", false), true},
		"AWS: both read":              {aws("d", true), aws("d", true), false},
		"Ceph: a monitor in common":   {rbd("a", "b"), rbd("b"), false},
		"Ceph: another cluster":       {rbd("a"), rbd("b"), true},
		"iSCSI: the same target":      {iscsi("x"), iscsi("x"), false},
		"disks of different kinds":    {iscsi("x"), gce("x", false), true},
		"what is there does not care": {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, gce("d", false), true},
	} {
		c := newCluster(node("n", "4", "4Gi"))
		c.SetPod(framework.NewPod(withVolume("there", test.there)), "n")
		check, _ := volumerestrictions.Plugin{}.Prepare(framework.NewPod(withVolume("p", test.wanted)), c.View())
		reasons := check(c.View().Nodes[0])
		if fits := len(reasons) == 0; fits != test.fits || !fits && reasons[0].Message != "node(s) had no available disk" {
			t.Errorf("%s: %v", what, reasons)
		}
	}
}
