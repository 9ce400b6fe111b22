package admission_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionreview "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// hookServer is a webhook on loopback.
type hookServer struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse
	asked  []*admissionreview.AdmissionRequest
}

func serveHook(t *testing.T, answer func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse) *hookServer {
	t.Helper()
	h := &hookServer{answer: answer}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionreview.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.mu.Lock()
		h.asked = append(h.asked, review.Request)
		h.mu.Unlock()
		review.Response = h.answer(review.Request)
		if review.Response == nil { // never
			<-r.Context().Done()
			return
		}
		review.Response.UID = review.Request.UID
		_ = json.NewEncoder(w).Encode(review) // the client may be gone
	}))
	t.Cleanup(h.Close)
	return h
}

// all returns what the webhook was asked.
func (h *hookServer) all() []*admissionreview.AdmissionRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

// requests returns what the webhook was asked about objects of that name.
func (h *hookServer) requests(name string) []*admissionreview.AdmissionRequest {
	var out []*admissionreview.AdmissionRequest
	for _, r := range h.all() {
		if r.Name == name {
			out = append(out, r)
		}
	}
	return out
}

func (h *hookServer) client() admissionv1.WebhookClientConfig {
	return admissionv1.WebhookClientConfig{URL: &h.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})}
}

func rule(group, version, resource string, operations ...admissionv1.OperationType) admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{Operations: operations,
		Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}}}
}

// validating returns a webhook that is asked about writes of ConfigMaps.
func validating(name string, h *hookServer) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: name, ClientConfig: h.client(), SideEffects: ptr(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		Rules: []admissionv1.RuleWithOperations{rule("", "v1", "configmaps", admissionv1.OperationAll)},
	}
}

func mutating(name string, h *hookServer) admissionv1.MutatingWebhook {
	v := validating(name, h)
	return admissionv1.MutatingWebhook{Name: v.Name, ClientConfig: v.ClientConfig, SideEffects: v.SideEffects,
		AdmissionReviewVersions: v.AdmissionReviewVersions, Rules: v.Rules}
}

func (c *cluster) validate(t *testing.T, name string, hooks ...admissionv1.ValidatingWebhook) {
	t.Helper()
	_, err := c.system.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(),
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: hooks}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) mutate(t *testing.T, name string, hooks ...admissionv1.MutatingWebhook) {
	t.Helper()
	_, err := c.system.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(),
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: hooks}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until what was configured has come into force: nothing but its effect tells.
func eventually(t *testing.T, what string, done func(context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 2*time.Minute, true, done); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

// tried creates a ConfigMap for nothing but the answer.
func (c *cluster) tried(ctx context.Context, client kubernetes.Interface, name string, data map[string]string) (*corev1.ConfigMap, error) {
	return client.CoreV1().ConfigMaps("default").Create(ctx, configMap(name, data), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// inForce waits until ConfigMaps that are called probe are refused.
func (c *cluster) inForce(t *testing.T) {
	t.Helper()
	eventually(t, "a ConfigMap called probe is refused", func(ctx context.Context) (bool, error) {
		_, err := c.tried(ctx, c.system, "probe", nil)
		return err != nil, nil
	})
}

func allowed() *admissionreview.AdmissionResponse {
	return &admissionreview.AdmissionResponse{Allowed: true}
}

func denied(message string) *admissionreview.AdmissionResponse {
	return &admissionreview.AdmissionResponse{Result: &metav1.Status{Message: message}}
}

func patched(operations string) *admissionreview.AdmissionResponse {
	return &admissionreview.AdmissionResponse{Allowed: true, Patch: []byte(operations), PatchType: ptr(admissionreview.PatchTypeJSONPatch)}
}

// refuse denies what is called probe or forbidden, and deletions of what is called kept.
func refuse(r *admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse {
	if r.Name == "probe" || r.Name == "forbidden" || r.Name == "kept" && r.Operation == admissionreview.Delete {
		return denied("not with me")
	}
	a := allowed()
	a.Warnings = []string{"looked at " + r.Name}
	a.AuditAnnotations = map[string]string{"seen": "yes"}
	return a
}

func TestValidatingWebhook(t *testing.T) {
	c := start(t)
	h := serveHook(t, refuse)
	conditional := validating("b.example.com", h)
	conditional.MatchConditions = []admissionv1.MatchCondition{{Name: "not-skipped", Expression: "request.name != 'skipped'"}}
	c.validate(t, "hooks", conditional)
	c.inForce(t)
	maps := c.system.CoreV1().ConfigMaps("default")
	_, err := maps.Create(t.Context(), configMap("forbidden", nil), metav1.CreateOptions{})
	if want := `admission webhook "b.example.com" denied the request: not with me`; err == nil || err.Error() != want {
		t.Errorf("create forbidden: got %v, want %s", err, want)
	}
	for _, name := range []string{"kept", "skipped"} {
		if _, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
			t.Errorf("create %s: %v", name, err)
		}
	}
	if err := maps.Delete(t.Context(), "kept", metav1.DeleteOptions{}); err == nil {
		t.Error("deletion of kept is allowed")
	}
	if got := h.requests("skipped"); len(got) > 0 {
		t.Errorf("asked about what the conditions leave out: %v", got)
	}
	asked := h.requests("kept")
	if len(asked) != 2 || asked[1].Operation != admissionreview.Delete || len(asked[1].OldObject.Raw) == 0 {
		t.Errorf("asked about kept: %v, want its creation and its deletion with the old object", asked)
	}
	if u := asked[0].UserInfo; u.Username != "system:apiserver" || asked[0].Kind.Kind != "ConfigMap" || asked[0].Namespace != "default" {
		t.Errorf("asked about kept: %+v", asked[0])
	}
}

func TestWebhookWarnings(t *testing.T) {
	c := start(t)
	c.validate(t, "hooks", validating("a.example.com", serveHook(t, refuse)))
	c.inForce(t)
	var heard warnings
	cfg := c.showing(t, "admin", "system:masters")
	cfg.WarningHandler = &heard
	if _, err := c.tried(t.Context(), client(t, cfg), "x", nil); err != nil {
		t.Fatal(err)
	}
	if len(heard) != 1 || heard[0] != "looked at x" {
		t.Errorf("warnings: got %q", heard)
	}
}

type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

// A webhook changes an object, one before it that wants to is asked again, and so are the server's own plugins and defaults.
func TestMutatingWebhooks(t *testing.T) {
	c := start(t)
	first := serveHook(t, func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse { return allowed() })
	second := serveHook(t, func(r *admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse {
		if r.Kind.Kind == "Pod" {
			return patched(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"added","image":"i"}]}]`)
		}
		return patched(`[{"op":"add","path":"/data/second","value":"yes"}]`)
	})
	again, change := mutating("a.example.com", first), mutating("b.example.com", second)
	again.ReinvocationPolicy = ptr(admissionv1.IfNeededReinvocationPolicy)
	change.Rules = append(change.Rules, rule("", "v1", "pods", admissionv1.Create))
	c.mutate(t, "hooks", again, change)
	eventually(t, "a ConfigMap is changed", func(ctx context.Context) (bool, error) {
		made, err := c.tried(ctx, c.system, "probe", map[string]string{"a": "b"})
		return err == nil && made.Data["second"] == "yes", err
	})
	made, err := c.system.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("x", map[string]string{"a": "b"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Data["second"] != "yes" || made.Data["a"] != "b" {
		t.Errorf("the changed ConfigMap: %v", made.Data)
	}
	if got := first.requests("x"); len(got) != 2 || !strings.Contains(string(got[1].Object.Raw), "second") {
		t.Errorf("the webhook that wants to be asked again was asked %d times", len(got))
	}
	if got := second.requests("x"); len(got) != 1 {
		t.Errorf("the webhook that does not was asked %d times", len(got))
	}
	pod := c.pod(t, "p", "", nil)
	if len(pod.Spec.InitContainers) != 1 {
		t.Fatalf("init containers: %v", pod.Spec.InitContainers)
	}
	if i := pod.Spec.InitContainers[0]; i.TerminationMessagePolicy != corev1.TerminationMessageReadFile || len(i.VolumeMounts) != 1 {
		t.Errorf("the added container has neither defaults nor the token that a plugin before the webhook mounts: %+v", i)
	}
}

func TestWebhookThatFails(t *testing.T) {
	c := start(t)
	h := serveHook(t, func(r *admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse {
		if r.Name == "probe" {
			return denied("no")
		}
		return nil
	})
	slow := validating("a.example.com", h)
	slow.TimeoutSeconds = ptr(int32(1))
	c.validate(t, "hooks", slow)
	c.inForce(t)
	_, err := c.tried(t.Context(), c.system, "x", nil)
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "a.example.com"`) || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("a webhook that does not answer: got %v, want an internal error that tells of the deadline", err)
	}
	slow.FailurePolicy = ptr(admissionv1.Ignore)
	configs := c.system.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	config, err := configs.Get(t.Context(), "hooks", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config.Webhooks = []admissionv1.ValidatingWebhook{slow}
	if _, err := configs.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failing webhook is ignored", func(ctx context.Context) (bool, error) {
		_, err := c.tried(ctx, c.system, "x", nil)
		return err == nil, nil
	})
	// Nobody listens there any more.
	h.Close()
	if _, err := c.tried(t.Context(), c.system, "x", nil); err != nil {
		t.Errorf("a webhook that is ignored and down: %v", err)
	}
}

func TestWebhookLearnsOfADryRun(t *testing.T) {
	c := start(t)
	h := serveHook(t, refuse)
	careless := validating("a.example.com", h)
	careless.SideEffects = ptr(admissionv1.SideEffectClassNoneOnDryRun)
	c.validate(t, "hooks", careless)
	c.inForce(t)
	if got := h.requests("probe"); len(got) == 0 || !*got[0].DryRun {
		t.Errorf("the webhook does not learn that nothing is meant: %v", got)
	}
}

// Webhooks are not asked about configurations of webhooks, or nobody could take one back, nor about who may do what.
func TestWebhooksThatRefuseEverything(t *testing.T) {
	c := start(t)
	no := func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse { return denied("no") }
	h := serveHook(t, no)
	all, change := validating("a.example.com", h), mutating("b.example.com", h)
	all.Rules = []admissionv1.RuleWithOperations{rule("*", "*", "*/*", admissionv1.OperationAll)}
	change.Rules = all.Rules
	c.validate(t, "hooks", all)
	c.mutate(t, "hooks", change)
	c.inForce(t)
	hooks := c.system.AdmissionregistrationV1()
	for _, err := range []error{
		hooks.ValidatingWebhookConfigurations().Delete(t.Context(), "hooks", metav1.DeleteOptions{}),
		hooks.MutatingWebhookConfigurations().Delete(t.Context(), "hooks", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Errorf("a configuration cannot be deleted: %v", err)
		}
	}
	for _, r := range h.all() {
		if r.Resource.Group == admissionv1.GroupName || r.Resource.Group == "authorization.k8s.io" {
			t.Errorf("asked about %v", r.Resource)
		}
	}
	eventually(t, "ConfigMaps are allowed again", func(ctx context.Context) (bool, error) {
		_, err := c.tried(ctx, c.system, "probe", nil)
		return err == nil, nil
	})
}

// A webhook that is about events of one version is asked about those of the other, in its own.
func TestWebhookOfAnEquivalentVersion(t *testing.T) {
	c := start(t)
	h := serveHook(t, refuse)
	hook := validating("a.example.com", h)
	hook.Rules = append(hook.Rules, rule("", "v1", "events", admissionv1.Create))
	c.validate(t, "hooks", hook)
	c.inForce(t)
	_, err := c.system.EventsV1().Events("default").Create(t.Context(), &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "forbidden", Namespace: "default"}, EventTime: metav1.NowMicro(), ReportingController: "a.b/c",
		ReportingInstance: "i", Action: "Do", Reason: "R", Type: "Normal", Note: "as it says",
		Regarding: corev1.ObjectReference{Namespace: "default", Kind: "Pod", Name: "p"},
	}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "not with me") {
		t.Fatalf("create an event: got %v, want the webhook's refusal", err)
	}
	got := h.requests("forbidden")
	if len(got) != 1 || got[0].Kind.Group != "" || got[0].RequestKind.Group != "events.k8s.io" || !strings.Contains(string(got[0].Object.Raw), `"message":"as it says"`) {
		t.Errorf("the webhook was asked %+v", got)
	}
}

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// define makes the kind Widget.
func (c *cluster) define(t *testing.T) dynamic.ResourceInterface {
	t.Helper()
	cfg := c.Transport.Config(asMaster())
	extensions, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	text := apiextensionsv1.JSONSchemaProps{Type: "string"}
	_, err = extensions.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"color": text, "size": text}}}}},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	free, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := free.Resource(widgets).Namespace("default")
	eventually(t, "widgets are served", func(ctx context.Context) (bool, error) {
		_, err := client.List(ctx, metav1.ListOptions{})
		return err == nil, nil
	})
	return client
}

func widget(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget",
		"metadata": map[string]any{"name": name}, "color": "red"}}
}

// Custom resources are changed, pruned of what their schema does not have, and refused like others.
func TestWebhooksOfCustomResources(t *testing.T) {
	c := start(t)
	client := c.define(t)
	h := serveHook(t, refuse)
	change := serveHook(t, func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse {
		return patched(`[{"op":"add","path":"/size","value":"big"},{"op":"add","path":"/taste","value":"sweet"}]`)
	})
	check, mutate := validating("a.example.com", h), mutating("b.example.com", change)
	check.Rules = append(check.Rules, rule("example.com", "v1", "widgets", admissionv1.OperationAll))
	mutate.Rules = []admissionv1.RuleWithOperations{rule("example.com", "v1", "widgets", admissionv1.Create)}
	c.mutate(t, "hooks", mutate)
	c.validate(t, "hooks", check)
	c.inForce(t)
	eventually(t, "a widget is changed", func(ctx context.Context) (bool, error) {
		made, err := client.Create(ctx, widget("try"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false, err
		}
		_, pruned := made.Object["taste"]
		return made.Object["size"] == "big" && !pruned, nil
	})
	if _, err := client.Create(t.Context(), widget("forbidden"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "not with me") {
		t.Errorf("create a forbidden widget: %v", err)
	}
	if _, err := client.Create(t.Context(), widget("kept"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.Delete(t.Context(), "kept", metav1.DeleteOptions{}); err == nil {
		t.Error("deletion of a kept widget is allowed")
	}
}

// What is installed is in force with the first request after a start.
func TestHooksAreThereFromTheStart(t *testing.T) {
	fs := newFS()
	c := startOn(t, fs)
	h := serveHook(t, refuse)
	c.validate(t, "hooks", validating("a.example.com", h))
	c.policy(t, "p", "object.metadata.name != 'unwanted'")
	c.inForce(t)
	c.stop()
	c = startOn(t, fs)
	for _, name := range []string{"forbidden", "unwanted"} {
		if _, err := c.tried(t.Context(), c.system, name, nil); err == nil {
			t.Errorf("a ConfigMap called %s is allowed", name)
		}
	}
}
