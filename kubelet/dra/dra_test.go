package dra

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/peapod/peapod/kubelet/plugin"
	drivers "github.com/peapod/peapod/test/images/dradriver/driver"
)

func (w *world) prepare(p *v1.Pod) {
	w.t.Helper()
	if err := w.dra.Prepare(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) release(p *v1.Pod) {
	w.t.Helper()
	if err := w.dra.Release(w.t.Context(), p.UID); err != nil {
		w.t.Fatal(err)
	}
}

// fails expects Prepare to fail in Kubernetes' words.
func (w *world) fails(p *v1.Pod, want string) error {
	w.t.Helper()
	err := w.dra.Prepare(w.t.Context(), p)
	if err == nil || err.Error() != "prepare dynamic resources: "+want {
		w.t.Errorf("error %v\nwant %s", err, want)
	}
	return err
}

func (w *world) prepared(d *drivers.Driver, want ...*resourcev1.ResourceClaim) {
	w.t.Helper()
	var uids []string
	for _, c := range want {
		uids = append(uids, string(c.UID))
	}
	slices.Sort(uids)
	for what, list := range map[string]func() ([]string, error){"driver": d.Prepared, "node": func() ([]string, error) { return w.files(), nil }} {
		got, err := list()
		slices.Sort(got)
		if err != nil || !slices.Equal(got, uids) {
			w.t.Errorf("the %s has %v, %v, want %v", what, got, err, uids)
		}
	}
}

// Claims are prepared in one call, those that several Pods share once, and given up with the last Pod. Containers get what they name.
func TestClaimsOfSeveralPods(t *testing.T) {
	w := start(t)
	d := w.driver(nil)
	p, q := user("p", "own", "shared"), user("q", "shared")
	own, shared := w.claim("own", nil, p), w.claim("shared", nil, p, q)
	w.intercept(func(what string, claim types.UID) error {
		if !slices.Contains(w.files(), string(claim)) {
			return fmt.Errorf("asked to %s what is not written down", what)
		}
		return nil
	})
	w.prepare(p)
	w.prepare(q)
	w.prepare(p) // a new sandbox
	w.prepared(d, own, shared)
	if got := w.called(); got != "prepare prepare" {
		t.Errorf("calls: %s", got)
	}
	name := func(c *resourcev1.ResourceClaim, device string) string {
		return driverName + "/device=" + string(c.UID) + "-" + device
	}
	for what, test := range map[string]struct {
		claims []v1.ResourceClaim
		want   []string
	}{
		"all":                         {p.Spec.Containers[0].Resources.Claims, []string{name(own, "0"), name(own, "1"), name(shared, "0"), name(shared, "1")}},
		"none":                        {nil, nil},
		"one":                         {[]v1.ResourceClaim{{Name: "shared"}}, []string{name(shared, "0"), name(shared, "1")}},
		"a request":                   {[]v1.ResourceClaim{{Name: "own", Request: "first"}}, []string{name(own, "0")}},
		"a request with alternatives": {[]v1.ResourceClaim{{Name: "own", Request: "second"}}, []string{name(own, "1")}},
		"no request of the claim":     {[]v1.ResourceClaim{{Name: "own", Request: "third"}}, nil},
		"twice":                       {[]v1.ResourceClaim{{Name: "own", Request: "first"}, {Name: "own"}}, []string{name(own, "0"), name(own, "1")}},
	} {
		c := &v1.Container{Name: "c", Resources: v1.ResourceRequirements{Claims: test.claims}}
		if got, err := w.dra.Devices(p, c); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, test.want)
		}
		told, err := w.dra.Resources(p, c)
		var names []string
		for _, claim := range told {
			for _, r := range claim.ClaimResources {
				names = append(names, r.CdiDevices[0].Name)
			}
		}
		if err != nil || !slices.Equal(names, test.want) {
			t.Errorf("%s: told are %v, %v, want %v", what, told, err, test.want)
		}
	}
	stranger := user("stranger", "own")
	if got, err := w.dra.Devices(stranger, &stranger.Spec.Containers[0]); err == nil {
		t.Errorf("another pod has %v", got)
	}
	if got, err := w.dra.Resources(stranger, &stranger.Spec.Containers[0]); err != nil || got != nil {
		t.Errorf("told of another pod: %v, %v", got, err)
	}
	w.release(p)
	w.prepared(d, shared)
	w.release(p)
	w.release(q)
	w.prepared(d)
	w.release(user("unknown"))
	if len(w.dra.claims) > 0 {
		t.Errorf("still known: %v", w.dra.claims)
	}
}

// What may not be used, or not here, is refused before anything is written down, so that the Pod can go without the driver's help.
func TestRefusals(t *testing.T) {
	w := start(t)
	p := user("p", "claim")
	w.fails(p, `fetch ResourceClaim claim: resourceclaims.resource.k8s.io "claim" not found`)
	c := w.claim("claim", nil)
	w.fails(p, fmt.Sprintf("pod p (uid-p) is not allowed to use ResourceClaim claim (%s)", c.UID))
	w.claim("pending", func(c *resourcev1.ResourceClaim) { c.Status = resourcev1.ResourceClaimStatus{} })
	early := user("early", "pending")
	w.fails(early, fmt.Sprintf("pod early (uid-early) is not allowed to use ResourceClaim pending (%s)", must(w.client.ResourceV1().ResourceClaims("ns").Get(t.Context(), "pending", metav1.GetOptions{})).UID))
	far := user("far", "elsewhere")
	w.claim("elsewhere", func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation.NodeSelector = &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "rack", Operator: v1.NodeSelectorOpIn, Values: []string{"r2"}}}}}}
	}, far)
	w.fails(far, "ResourceClaim elsewhere: what is allocated is not on node n1")
	templated := user("templated")
	templated.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: &p.Name}}
	w.fails(templated, `pod "ns/templated": ResourceClaim not created yet`)
	templated.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &c.Name}}
	w.fails(templated, "ResourceClaim ns/claim was not created for Pod ns/templated (Pod is not owner)")
	templated.Status.ResourceClaimStatuses[0].ResourceClaimName = nil
	w.prepare(templated) // none is needed

	lonely := user("lonely", "nobodys")
	n := w.claim("nobodys", nil, lonely)
	err := w.fails(lonely, "DRA driver d.example.com is not registered")
	if files := w.files(); len(files) > 0 {
		t.Errorf("written down: %v", files)
	}
	w.release(lonely)
	again := ready(t, err)
	d := w.driver(nil)
	select {
	case <-again:
	case <-time.After(patience):
		t.Fatal("nobody tells that the driver is there")
	}
	w.prepare(lonely)
	w.prepared(d, n)
	w.release(lonely)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A driver that fails is asked again; what it may have done is undone in any case.
func TestDriversThatFail(t *testing.T) {
	for name, change := range map[string]func(*drivers.Config){"v1": nil, "v1beta1": old} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			d := w.driver(change)
			p := user("p", "a", "b")
			a, b := w.claim("a", nil, p), w.claim("b", nil, p)
			w.intercept(func(what string, claim types.UID) error {
				if claim == b.UID {
					return errors.New("broken")
				}
				return nil
			})
			w.fails(p, "NodePrepareResources failed for ResourceClaim b: broken")
			if got := w.files(); len(got) != 2 {
				t.Errorf("written down: %v", got)
			}
			err := w.dra.Release(t.Context(), p.UID)
			if err == nil || err.Error() != "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim b: broken" {
				t.Errorf("error %v", err)
			}
			w.intercept(nil)
			if got := w.files(); len(got) != 1 || got[0] != string(b.UID) {
				t.Errorf("written down: %v", got)
			}
			w.prepare(p)
			w.prepared(d, a, b)
			d.Stop()
			if err := w.dra.Release(t.Context(), p.UID); err == nil {
				t.Error("a driver that has gone has undone it")
			}
			d = w.driver(change)
			w.release(p)
			w.prepared(d)
		})
	}
}

// A kubelet that is killed knows at its next start what drivers may have done.
func TestRestart(t *testing.T) {
	w := start(t)
	d := w.driver(nil)
	p, q := user("p", "a"), user("q", "b")
	a, b := w.claim("a", nil, p), w.claim("b", nil, q)
	w.prepare(p)
	before := must(w.dra.Devices(p, &p.Spec.Containers[0]))
	w.intercept(func(string, types.UID) error { return errors.New("killed") })
	w.fails(q, "NodePrepareResources failed for ResourceClaim b: killed")
	w.intercept(nil)
	w.stop()
	w.run(wipeDelay)
	uids, err := w.dra.Pods()
	slices.Sort(uids)
	if err != nil || !slices.Equal(uids, []types.UID{p.UID, q.UID}) {
		t.Errorf("pods %v, %v", uids, err)
	}
	if got, err := w.dra.Devices(p, &p.Spec.Containers[0]); err != nil || !slices.Equal(got, before) || len(got) != 2 {
		t.Errorf("devices %v, %v, want %v", got, err, before)
	}
	w.untilDriver("the driver is there", func() bool {
		w.dra.mu.Lock()
		defer w.dra.mu.Unlock()
		return w.dra.present(driverName)
	})
	w.prepare(q)
	w.prepared(d, a, b)
	// A claim that was made anew under its name waits for the old one.
	claims := w.client.ResourceV1().ResourceClaims("ns")
	old := must(claims.Get(t.Context(), "a", metav1.GetOptions{}))
	old.Status = resourcev1.ResourceClaimStatus{}
	must(claims.UpdateStatus(t.Context(), old, metav1.UpdateOptions{}))
	if err := claims.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next := user("next", "a")
	n := w.claim("a", nil, next)
	w.fails(next, fmt.Sprintf("old ResourceClaim with same name a and different UID %s still exists (previous pod force-deleted?!)", a.UID))
	w.release(p)
	w.prepare(next)
	w.prepared(d, b, n)
}

// While a driver is replaced there are two, of which the newer one is asked, and the other when that one goes.
func TestRollingUpdate(t *testing.T) {
	w := start(t)
	first, second := w.driver(rolling("1")), w.driver(rolling("2"))
	if got := current(w); !strings.Contains(got, "dra-2.sock") {
		t.Errorf("asked is %s", got)
	}
	second.Stop()
	w.until("the second one is gone", func() bool { return strings.Contains(current(w), "dra-1.sock") })
	p := user("p", "a")
	a := w.claim("a", nil, p)
	w.prepare(p)
	w.prepared(first, a)
	third := w.driver(rolling("3"))
	first.Stop()
	w.until("the first one is gone", func() bool { return strings.Contains(current(w), "dra-3.sock") })
	w.release(p)
	w.prepared(third)
}

func current(w *world) string {
	d, _, err := w.dra.driver(driverName)
	if err != nil {
		return err.Error()
	}
	return d.endpoint
}

// Slices of the node go when it starts, and those of a driver that stays away; a driver that comes back in time keeps them.
func TestSlicesOfDriversThatAreGone(t *testing.T) {
	w := start(t)
	w.stop()
	w.slice("lost", "gone.example.com", "n1")
	w.slice("other", "gone.example.com", "n2")
	w.run(time.Hour)
	w.untilSlices("the slices of the last start are gone", "other")
	w.dra.work.Wait()
	w.slice("mine", driverName, "n1")
	d := w.driver(nil)
	d.Stop()
	waiting := func() bool {
		w.dra.mu.Lock()
		defer w.dra.mu.Unlock()
		return w.dra.away[driverName] != nil
	}
	w.until("the driver is missed", waiting)
	d = w.driver(nil)
	if waiting() {
		t.Error("the driver is missed though it is back")
	}
	if got := w.slices(); !slices.Equal(got, []string{"mine", "other"}) {
		t.Errorf("slices %v", got)
	}
	w.stop()

	w.run(time.Millisecond)
	w.untilSlices("the slices of the last start are gone", "other")
	w.untilDriver("the driver is there", func() bool { return current(w) != "" && !strings.Contains(current(w), "not registered") })
	w.slice("mine", driverName, "n1")
	w.slice("theirs", "another.example.com", "n1")
	d.Stop()
	w.untilSlices("the driver's slices are gone", "other", "theirs")
}

// A node without drivers and claims does one request, and has no goroutine after that.
func TestNothingForNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client := fake.NewClientset()
	m := New(Config{Client: client, NodeName: "n1", RootDir: t.TempDir()})
	m.Open()
	m.work.Wait()
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
	p := user("p")
	if err := errors.Join(m.Prepare(t.Context(), p), m.Release(t.Context(), p.UID)); err != nil {
		t.Error(err)
	}
	if got, err := m.Devices(p, &p.Spec.Containers[0]); err != nil || got != nil {
		t.Error(got, err)
	}
	if n := len(client.Actions()); n != 1 {
		t.Errorf("%d requests: %v", n, client.Actions())
	}
	m.Close()
}

func TestDriversThatAreNone(t *testing.T) {
	m := New(Config{Client: fake.NewClientset(), NodeName: "n1", RootDir: t.TempDir()})
	defer m.Close()
	for want, p := range map[string]plugin.Plugin{
		"DRA driver name is empty": {Versions: []string{version1}},
		"invalid supported gRPC versions of DRA driver plugin d at endpoint /e: empty list of supported gRPC services (aka supported versions)":                                                                           {Name: "d"},
		`invalid supported gRPC versions of DRA driver plugin d at endpoint /e: none of services supported by the plugin (["v1alpha4.Node" "1.0.0"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])`: {Name: "d", Versions: []string{"v1alpha4.Node", "1.0.0"}},
	} {
		p.Endpoint = "/e"
		if err := m.Register(t.Context(), p); err == nil || err.Error() != want {
			t.Errorf("error %v\nwant %s", err, want)
		}
	}
	good := plugin.Plugin{Name: "d", Endpoint: "/e", Versions: []string{"v1.DRAResourceHealth", version1Beta, version1}}
	if err := m.Register(t.Context(), good); err != nil {
		t.Error(err)
	}
	if d, _, err := m.driver("d"); err != nil || !strings.HasSuffix(d.service, ".v1beta1.DRAPlugin") {
		t.Errorf("driver %+v, %v", d, err)
	}
	if err := m.Register(t.Context(), good); err == nil || err.Error() != "endpoint /e already registered for DRA driver plugin d" {
		t.Errorf("error %v", err)
	}
}

func TestAnswers(t *testing.T) {
	claims := []*drapb.Claim{{Uid: "1", Name: "one"}, {Uid: "2", Name: "two"}}
	fine := &drapb.NodeUnprepareResourceResponse{}
	for _, test := range []struct {
		said map[string]*drapb.NodeUnprepareResourceResponse
		want string
	}{
		{map[string]*drapb.NodeUnprepareResourceResponse{"1": fine, "2": nil}, "map[] <nil>"},
		{map[string]*drapb.NodeUnprepareResourceResponse{"1": fine, "2": {Error: "no"}}, "map[2:Call failed for ResourceClaim two: no] <nil>"},
		{map[string]*drapb.NodeUnprepareResourceResponse{"2": fine}, "map[1:Call skipped 1 ResourceClaims] <nil>"},
		{nil, "map[1:Call skipped 2 ResourceClaims 2:Call skipped 2 ResourceClaims] <nil>"},
		{map[string]*drapb.NodeUnprepareResourceResponse{"1": fine, "2": fine, "3": fine}, "map[] Call returned result for unknown claim UID 3"},
	} {
		if failed, err := judge("Call", claims, test.said); fmt.Sprint(failed, err) != test.want {
			t.Errorf("%v: %v %v, want %s", test.said, failed, err, test.want)
		}
	}
}

// Extended resources that are devices come from the claim that the scheduler made for them.
func TestExtendedResources(t *testing.T) {
	w := start(t)
	w.driver(nil)
	p := user("p")
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "other"})
	p.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended", RequestMappings: []v1.ContainerExtendedResourceRequest{
		{ContainerName: "app", ResourceName: "example.com/gpu", RequestName: "second"}, {ContainerName: "other", ResourceName: "example.com/gpu", RequestName: "first"}}}
	c := w.claim("extended", nil, p)
	w.prepare(p)
	got, err := w.dra.Devices(p, &p.Spec.Containers[0])
	if want := driverName + "/device=" + string(c.UID) + "-1"; err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("devices %v, %v, want %s", got, err, want)
	}
	if got, err := w.dra.Devices(p, &p.Spec.Containers[1]); err != nil || len(got) != 0 {
		t.Errorf("a container that asks for none has %v, %v", got, err)
	}
	w.release(p)
}
