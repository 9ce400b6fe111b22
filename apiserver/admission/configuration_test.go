package admission_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	admissionreview "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/apiserver/admission/configuration"
)

// configured writes the files, in one folder, and loads admission.yaml of them, with other options that set has.
func configured(t *testing.T, files map[string]string, set ...func(*configuration.Options)) (configuration.Configuration, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := configuration.Options{AdmissionControlConfigFile: filepath.Join(dir, "admission.yaml")}
	for _, f := range set {
		f(&o)
	}
	return configuration.Load(o)
}

const admissionHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"

// TestConfiguration: what the file says of Pod security holds where labels say nothing, and webhooks are told who asks.
func TestConfiguration(t *testing.T) {
	var bearer atomic.Value
	hook := serveHook(t, func(*admissionreview.AdmissionRequest) *admissionreview.AdmissionResponse {
		return &admissionreview.AdmissionResponse{Allowed: true}
	})
	answer := hook.Config.Handler
	hook.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer.Store(r.Header.Get("Authorization"))
		answer.ServeHTTP(w, r)
	})
	plugins, err := configured(t, map[string]string{
		"admission.yaml": admissionHead + `- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {namespaces: [free]}
- {name: ValidatingAdmissionWebhook, path: hooks.yaml}
`,
		"hooks.yaml": "apiVersion: apiserver.config.k8s.io/v1\nkind: WebhookAdmissionConfiguration\nkubeConfigFile: DIR/hooks.kubeconfig\n",
		"hooks.kubeconfig": "apiVersion: v1\nkind: Config\nusers:\n- name: \"" + strings.TrimPrefix(hook.URL, "https://") +
			"\"\n  user: {token: it-is-me}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, vfs.NewMem(), setup{plugins: plugins})
	ctx := t.Context()
	for _, name := range []string{"free", "bound"} {
		if _, err := c.system.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := c.system.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: ptr(true)}}}}}
	if _, err := c.system.CoreV1().Pods("free").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Errorf("exempt namespace: %v", err)
	}
	_, err = c.system.CoreV1().Pods("bound").Create(ctx, pod, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": privileged`) {
		t.Errorf("namespace without labels: %v", err)
	}

	fail, none := admissionv1.Fail, admissionv1.SideEffectClassNone
	_, err = c.system.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "hook"},
		Webhooks: []admissionv1.ValidatingWebhook{{Name: "hook.example.com", ClientConfig: hook.client(), FailurePolicy: &fail, SideEffects: &none,
			AdmissionReviewVersions: []string{"v1"}, Rules: []admissionv1.RuleWithOperations{rule("", "v1", "configmaps", admissionv1.Create)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; bearer.Load() == nil; i++ { // that the webhook is known is an event of the server's own
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}}
		if _, err := c.system.CoreV1().ConfigMaps("free").Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if i > 10_000 {
			t.Fatal("the webhook is not asked")
		}
	}
	if bearer.Load() != "Bearer it-is-me" {
		t.Errorf("the webhook is told %q", bearer.Load())
	}
}

// TestBadConfiguration: errors of the file name it, the plugin and the field.
func TestBadConfiguration(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"- {name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: some}}}",
			[]string{"PodSecurity", "defaults.enforce", `"some"`}},
		{"- {name: EventRateLimit}", []string{"plugins[0].name", "EventRateLimit", "PodSecurity"}},
		{"- {name: MutatingAdmissionWebhook, path: gone.yaml}", []string{"MutatingAdmissionWebhook", "gone.yaml"}},
		{"- {name: MutatingAdmissionWebhook, configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: relative}}",
			[]string{"MutatingAdmissionWebhook", "kubeConfigFile", "absolute"}},
		{"- {name: PodSecurity, pth: x}", []string{"pth"}},
	} {
		_, err := configured(t, map[string]string{"admission.yaml": admissionHead + test.text + "\n"})
		for _, part := range append(test.want, "--admission-control-config-file", "admission.yaml") {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", test.text, err, part)
			}
		}
	}
	if c, err := configuration.Load(configuration.Options{}); err != nil || c.PodSecurity != nil || c.MutatingWebhooks != nil {
		t.Errorf("%+v, %v", c, err)
	}
}
