package admission_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/resourcequota"
)

func resources(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = apiresource.MustParse(pairs[i+1])
	}
	return out
}

// quotaController runs the real one, as the service account that it has, until the test ends.
func (c *cluster) quotaController(t *testing.T) {
	t.Helper()
	as := &user.DefaultInfo{Name: serviceaccount.MakeUsername("kube-system", resourcequota.Name),
		Groups: append(serviceaccount.MakeGroupNames("kube-system"), user.AllAuthenticated)}
	config := c.Transport.Config(as)
	client, err := kubernetes.NewForConfig(config)
	fine(t, err)
	meta, err := metadata.NewForConfig(config)
	fine(t, err)
	factory := informers.NewSharedInformerFactory(client, 0)
	run, err := resourcequota.New(engine.Deps{Client: client, Metadata: meta, Informers: factory})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fine(t, run.Run(ctx)) })
	factory.StartWithContext(ctx)
	t.Cleanup(func() { cancel(); running.Wait(); factory.Shutdown() })
}

// quota makes one in a namespace of its own, and waits until admission goes by it.
func (c *cluster) quota(t *testing.T, namespace string, spec corev1.ResourceQuotaSpec) {
	t.Helper()
	_, err := c.system.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	fine(t, err)
	spec.Hard["count/leases.coordination.k8s.io"] = resources("none", "0")["none"]
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: spec}
	_, err = c.system.CoreV1().ResourceQuotas(namespace).Create(ctx, q, metav1.CreateOptions{})
	fine(t, err)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "none"}}
	settle(t, func() error {
		_, err := c.system.CoordinationV1().Leases(namespace).Create(ctx, lease, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsForbidden(err) {
			return nil
		}
		return fmt.Errorf("a Lease more than the quota allows: %v", err)
	})
}

// awaitQuota waits for a status of the namespace's quota.
func (c *cluster) awaitQuota(t *testing.T, namespace string, ok func(corev1.ResourceQuotaStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w, err := c.system.CoreV1().ResourceQuotas(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last corev1.ResourceQuotaStatus
	for e := range w.ResultChan() {
		if q, isQuota := e.Object.(*corev1.ResourceQuota); isQuota {
			if last = q.Status; ok(last) {
				return
			}
		}
	}
	t.Fatalf("quota of %s did not come to the status in time: %+v", namespace, last)
}

func podOf(name string, requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
}

func TestQuota(t *testing.T) {
	c := start(t)
	c.quotaController(t)
	for name, run := range map[string]func(*testing.T, *cluster){
		"refusals": quotaRefusals, "race": quotaRace, "resize": quotaResize, "failed": quotaOfFailedRequest, "update": quotaOfUpdate,
		"scope": quotaOfScope, "devices": quotaOfDevices,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); run(t, c) })
	}
}

func quotaRefusals(t *testing.T, c *cluster) {
	c.quota(t, "refusals", corev1.ResourceQuotaSpec{Hard: resources("limits.cpu", "1", "pods", "2", "services.nodeports", "1", "count/configmaps", "1")})
	pods := c.system.CoreV1().Pods("refusals")
	_, err := pods.Create(ctx, podOf("x", nil, nil), metav1.CreateOptions{})
	refused(t, err, `pods "x" is forbidden: failed quota: q: must specify limits.cpu for: c`)
	_, err = pods.Create(ctx, podOf("big", nil, resources("cpu", "1500m")), metav1.CreateOptions{})
	refused(t, err, `pods "big" is forbidden: exceeded quota: q, requested: limits.cpu=1500m, used: limits.cpu=0, limited: limits.cpu=1`)
	_, err = pods.Create(ctx, podOf("fits", nil, resources("cpu", "600m")), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	fine(t, err)
	_, err = pods.Create(ctx, podOf("fits", nil, resources("cpu", "600m")), metav1.CreateOptions{})
	fine(t, err)
	_, err = pods.Create(ctx, podOf("more", nil, resources("cpu", "600m")), metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: limits.cpu=600m, used: limits.cpu=600m, limited: limits.cpu=1")

	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort,
		Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}
	_, err = c.system.CoreV1().Services("refusals").Create(ctx, svc, metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1")

	maps := c.system.CoreV1().ConfigMaps("refusals")
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1")
}

// A Pod that gets a deadline is charged to the quota of those that have one, before another one asks.
func quotaOfScope(t *testing.T, c *cluster) {
	c.quota(t, "scope", corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}})
	quotas, pods := c.system.CoreV1().ResourceQuotas("scope"), c.system.CoreV1().Pods("scope")
	_, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "deadlines"},
		Spec: corev1.ResourceQuotaSpec{Hard: resources("pods", "0"), Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}}}, metav1.CreateOptions{})
	fine(t, err)
	deadline := int64(3600)
	second := podOf("second", nil, nil)
	second.Spec.ActiveDeadlineSeconds = &deadline
	try := func() error {
		_, err := pods.Create(ctx, second, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	settle(t, func() error { // until admission knows of the quota, and then of its being larger
		if err := try(); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a Pod more than the quota allows: %v", err)
		}
		return nil
	})
	_, err = quotas.Patch(ctx, "deadlines", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"1"}}}`), metav1.PatchOptions{})
	fine(t, err)
	settle(t, try)
	first, err := pods.Create(ctx, podOf("first", nil, nil), metav1.CreateOptions{})
	fine(t, err)
	first.Spec.ActiveDeadlineSeconds = &deadline
	_, err = pods.Update(ctx, first, metav1.UpdateOptions{})
	fine(t, err)
	_, err = pods.Create(ctx, second, metav1.CreateOptions{})
	refused(t, err, "exceeded quota: deadlines, requested: pods=1, used: pods=1, limited: pods=1")
}

// Devices count as the extended resource that their class stands for, once for a Pod and the claim that is made for it.
func quotaOfDevices(t *testing.T, c *cluster) {
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
	class.Spec.ExtendedResourceName = ptr("example.com/gpu")
	_, err := c.system.ResourceV1().DeviceClasses().Create(ctx, class, metav1.CreateOptions{})
	fine(t, err)
	const own, named = "requests.example.com/gpu", "requests.deviceclass.resource.kubernetes.io/gpu"
	c.quota(t, "devices", corev1.ResourceQuotaSpec{Hard: resources(own, "4", named, "4")})
	two := resources("example.com/gpu", "1", "deviceclass.resource.kubernetes.io/gpu", "1")
	p, err := c.system.CoreV1().Pods("devices").Create(ctx, podOf("p", two, two), metav1.CreateOptions{})
	fine(t, err)
	claims := c.system.ResourceV1().ResourceClaims("devices")
	claim := func(name string, n int64) *resourcev1.ResourceClaim {
		claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		claim.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Count: n}}}
		return claim
	}
	extended := func(name string) *resourcev1.ResourceClaim {
		claim := claim(name, 2)
		claim.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID, Controller: ptr(true)}}
		return claim
	}
	_, err = claims.Create(ctx, extended("a"), metav1.CreateOptions{})
	fine(t, err)
	c.awaitQuota(t, "devices", func(s corev1.ResourceQuotaStatus) bool {
		return s.Used.Name(own, "").Value() == 2 && s.Used.Name(named, "").Value() == 2
	})
	_, err = claims.Create(ctx, claim("big", 3), metav1.CreateOptions{})
	refused(t, err, "exceeded quota: q, requested: requests.deviceclass.resource.kubernetes.io/gpu=3,requests.example.com/gpu=3, "+
		"used: requests.deviceclass.resource.kubernetes.io/gpu=2,requests.example.com/gpu=2, "+
		"limited: requests.deviceclass.resource.kubernetes.io/gpu=4,requests.example.com/gpu=4")
	_, err = claims.Create(ctx, claim("fits", 1), metav1.CreateOptions{})
	fine(t, err)
	_, err = claims.Create(ctx, extended("b"), metav1.CreateOptions{}) // a second one of the same Pod's is not paid for
	refused(t, err, "exceeded quota: q, requested: requests.deviceclass.resource.kubernetes.io/gpu=2,requests.example.com/gpu=2")
}

// Many create at once, while others delete: what is there never exceeds the quota.
func quotaRace(t *testing.T, c *cluster) {
	const most, creators, enough = 5, 8, 15
	c.quota(t, "race", corev1.ResourceQuotaSpec{Hard: resources("pods", "5")})
	pods := c.system.CoreV1().Pods("race")
	watch, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	counted := make(chan int, 1)
	go func() {
		there, highest := map[string]bool{}, 0
		for e := range watch.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			there[p.Name] = true
			if e.Type == "DELETED" {
				delete(there, p.Name)
			}
			highest = max(highest, len(there))
			if p.Name == "last" {
				counted <- highest
				return
			}
		}
		counted <- -1
	}()
	var made, denied atomic.Int32
	var running sync.WaitGroup
	now := int64(0)
	for i := range creators {
		running.Go(func() {
			for j := 0; made.Load() < enough; j++ {
				name := fmt.Sprintf("p-%d-%d", i, j)
				if _, err := pods.Create(ctx, podOf(name, nil, nil), metav1.CreateOptions{}); err != nil {
					refused(t, err, "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5")
					denied.Add(1)
					continue
				}
				made.Add(1)
				fine(t, pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
			}
		})
	}
	running.Wait()
	t.Logf("%d made, %d refused", made.Load(), denied.Load())
	if denied.Load() == 0 {
		t.Error("none was refused: the quota was not reached")
	}
	// What was given back can be used again.
	fine(t, pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}))
	c.awaitQuota(t, "race", func(s corev1.ResourceQuotaStatus) bool { return s.Used.Pods().IsZero() })
	settle(t, func() error {
		_, err := pods.Create(ctx, podOf("last", nil, nil), metav1.CreateOptions{})
		return err
	})
	if highest := <-counted; highest > most || highest < 0 {
		t.Errorf("%d Pods were there at once, the quota allows %d", highest, most)
	}
}

func quotaResize(t *testing.T, c *cluster) {
	c.quota(t, "resize", corev1.ResourceQuotaSpec{Hard: resources("requests.cpu", "1")})
	pods := c.system.CoreV1().Pods("resize")
	p, err := pods.Create(ctx, podOf("p", resources("cpu", "500m"), nil), metav1.CreateOptions{})
	fine(t, err)
	p.Spec.Containers[0].Resources.Requests = resources("cpu", "1100m")
	_, err = pods.UpdateResize(ctx, "p", p, metav1.UpdateOptions{})
	refused(t, err, "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1")
	p.Spec.Containers[0].Resources.Requests = resources("cpu", "900m")
	_, err = pods.UpdateResize(ctx, "p", p, metav1.UpdateOptions{})
	fine(t, err)
	c.awaitQuota(t, "resize", func(s corev1.ResourceQuotaStatus) bool { return s.Used.Name("requests.cpu", "").String() == "900m" })
}

// A request that is charged and then fails, because the name is taken, costs nothing in the end.
func quotaOfFailedRequest(t *testing.T, c *cluster) {
	c.quota(t, "failed", corev1.ResourceQuotaSpec{Hard: resources("count/secrets", "5")})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	_, err := c.system.CoreV1().Secrets("failed").Create(ctx, secret, metav1.CreateOptions{})
	fine(t, err)
	if _, err = c.system.CoreV1().Secrets("failed").Create(ctx, secret, metav1.CreateOptions{}); err == nil {
		t.Fatal("a name was given twice")
	}
	c.awaitQuota(t, "failed", func(s corev1.ResourceQuotaStatus) bool { return s.Used.Name("count/secrets", "").String() == "1" })
}

// A Service that becomes one with node ports is charged for them, and given back what it does not use any more.
func quotaOfUpdate(t *testing.T, c *cluster) {
	c.quota(t, "update", corev1.ResourceQuotaSpec{Hard: resources("services.nodeports", "1")})
	services := c.system.CoreV1().Services("update")
	svc, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}, metav1.CreateOptions{})
	fine(t, err)
	svc.Spec.Type = corev1.ServiceTypeNodePort
	_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	refused(t, err, "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1")
	svc.Spec.Ports = svc.Spec.Ports[:1]
	svc, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	fine(t, err)
	svc.Spec.Type = corev1.ServiceTypeClusterIP
	svc.Spec.Ports[0].NodePort = 0
	_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	fine(t, err)
	c.awaitQuota(t, "update", func(s corev1.ResourceQuotaStatus) bool { return s.Used.Name("services.nodeports", "").IsZero() })
}
