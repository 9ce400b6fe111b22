package flowcontrol_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

// level is one of a single seat, which takes what the user of its name asks of /block.
func level(t *testing.T, c kubernetes.Interface, name string, response flowcontrolv1.LimitResponse) {
	t.Helper()
	api, ctx := c.FlowcontrolV1(), t.Context()
	_, err := api.PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](1), BorrowingLimitPercent: ptr.To[int32](0), LimitResponse: response,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: name}, MatchingPrecedence: 5,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}},
				NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/block"}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// That the level is there is said by whoever acts on it.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w, err := api.FlowSchemas().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			t.Fatal(e.Object)
		}
		for _, condition := range e.Object.(*flowcontrolv1.FlowSchema).Status.Conditions {
			if condition.Type == flowcontrolv1.FlowSchemaConditionDangling && condition.Status == flowcontrolv1.ConditionFalse {
				return
			}
		}
	}
	t.Fatalf("nobody says that flow schema %s has its level", name)
}

// awaitWaiting returns when a request waits in a queue of the level. The server tells that to nobody, so it is asked. Of a level the dump has
// those that are served, too; their index in the queue is -1.
func awaitWaiting(t *testing.T, c kubernetes.Interface, level string) {
	t.Helper()
	var dump []byte
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(ctx context.Context) (_ bool, err error) {
		if dump, err = c.CoreV1().RESTClient().Get().AbsPath("/debug/api_priority_and_fairness/dump_requests").DoRaw(ctx); err != nil {
			return false, err
		}
		for row := range strings.Lines(string(dump)) {
			column := strings.Split(row, ",")
			for i := range column {
				column[i] = strings.TrimSpace(column[i])
			}
			if len(column) > 3 && column[0] == level && column[3] != "-1" {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("no request waits in a queue of %s: %v\n%s", level, err, dump)
	}
}

// TestFairness: a request that finds its level's seat taken is turned away or waits, as the level says, and others are served.
func TestFairness(t *testing.T) {
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	var inside, most atomic.Int32
	var factory informers.SharedInformerFactory
	s := servertest.Start(t, func(c *apiserver.Config) {
		system, err := kubernetes.NewForConfig(c.InProcess.Config(&user.DefaultInfo{Name: "system:apiserver", Groups: []string{user.SystemPrivilegedGroup}}))
		if err != nil {
			t.Fatal(err)
		}
		factory = informers.NewSharedInformerFactory(system, 0)
		c.FlowControl = utilflowcontrol.New(factory, system.FlowcontrolV1(), 2)
		c.Handlers = map[string]http.Handler{"/block": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for now := inside.Add(1); ; {
				if had := most.Load(); had >= now || most.CompareAndSwap(had, now) {
					break
				}
			}
			entered <- struct{}{}
			select {
			case <-leave:
			case <-r.Context().Done(): // nobody lets it go: its client has given up
			}
			inside.Add(-1)
		})}
	})
	ctx, stop := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	t.Cleanup(func() { stop(); factory.Shutdown() })
	admin := s.Client(t)
	reconcile(t, admin)
	level(t, admin, "rejected", flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject})
	level(t, admin, "queued", flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
		Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: 5}})

	get := func(name string) *http.Response {
		config := s.Transport.Config(&user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}})
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Error(err)
			return &http.Response{Body: http.NoBody}
		}
		patient, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		request, err := http.NewRequestWithContext(patient, http.MethodGet, config.Host+"/block", nil)
		if err != nil {
			t.Error(err)
			return &http.Response{Body: http.NoBody}
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Error(err)
			return &http.Response{Body: http.NoBody}
		}
		_ = answer.Body.Close()
		return answer
	}
	answers := make(chan *http.Response, 10)
	ask := func(name string) { answers <- get(name) }
	await := func() *http.Response {
		t.Helper()
		select {
		case a := <-answers:
			return a
		case <-time.After(time.Minute):
			t.Fatal("no answer")
			return nil
		}
	}

	go ask("rejected")
	<-entered
	refused := get("rejected")
	schema, err := admin.FlowcontrolV1().FlowSchemas().Get(ctx, "rejected", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if refused.StatusCode != http.StatusTooManyRequests || refused.Header.Get("Retry-After") == "" ||
		refused.Header.Get("X-Kubernetes-PF-FlowSchema-UID") != string(schema.UID) || refused.Header.Get("X-Kubernetes-PF-PriorityLevel-UID") == "" {
		t.Fatalf("a request too many: %s %v", refused.Status, refused.Header)
	}
	if _, err := admin.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("another's request: %v", err)
	}
	leave <- struct{}{}
	if served := await(); served.StatusCode != http.StatusOK {
		t.Errorf("the request before it: %s", served.Status)
	}

	most.Store(0)
	go ask("queued")
	<-entered
	go ask("queued")
	awaitWaiting(t, admin, "queued")
	leave <- struct{}{}
	<-entered
	leave <- struct{}{}
	for range 2 {
		if served := await(); served.StatusCode != http.StatusOK {
			t.Errorf("queued: %s", served.Status)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d requests on one seat", most.Load())
	}
}
