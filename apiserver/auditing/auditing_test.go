package auditing_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/auditing"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
)

const policy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, resources: [{resources: [secrets, pods/exec]}]}
- {level: RequestResponse, verbs: [create], resources: [{resources: [configmaps]}]}
- {level: Metadata, users: [eve, "system:serviceaccount:kube-system:some-controller", "system:kube-scheduler"]}
- {level: None}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs a server that records as the options say.
func start(t *testing.T, o auditing.Options) *servertest.Server {
	t.Helper()
	a, err := auditing.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return servertest.Start(t, func(c *apiserver.Config) { c.Audit = a })
}

func records(t *testing.T, file string) (list []auditv1.Event) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		list = append(list, e)
	}
	return list
}

// TestLog: what the policy names is recorded with who asked for it, as much of it as the policy says, and nothing else.
func TestLog(t *testing.T) {
	o := auditing.DefaultOptions()
	o.AuditPolicyFile, o.AuditLogPath = write(t, "policy.yaml", policy), filepath.Join(t.TempDir(), "new", "audit.log")
	s := start(t, o)
	ctx, c := t.Context(), s.Client(t)
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "do-not-record"}}
	if _, err := c.CoreV1().Secrets("n").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eve, err := kubernetes.NewForConfig(s.Config("eve"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eve.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("eve lists nodes: %v", err)
	}
	err = c.CoreV1().RESTClient().Post().Namespace("n").Resource("pods").Name("gone").SubResource("exec").
		Param("command", "id").Param("stdout", "true").Do(ctx).Error()
	if !apierrors.IsNotFound(err) {
		t.Fatalf("exec: %v", err)
	}
	component, err := kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "system:serviceaccount:kube-system:some-controller"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := component.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	informer, err := inprocess.NewClientset(s.Transport.Config(&user.DefaultInfo{Name: "system:kube-scheduler"}))
	if err != nil {
		t.Fatal(err)
	}
	w, err := informer.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	s.Stop()

	got := map[string]auditv1.Event{}
	for _, e := range records(t, o.AuditLogPath) {
		got[e.User.Username+" "+e.Verb+" "+e.ObjectRef.Resource+" "+e.ObjectRef.Subresource] = e
	}
	created := got["admin create secrets "]
	if created.Level != auditv1.LevelMetadata || created.ResponseStatus.Code != http.StatusCreated || created.ObjectRef.Name != "s" || created.RequestObject != nil || len(created.SourceIPs) == 0 {
		t.Errorf("creation of a secret: %+v", created)
	}
	if denied := got["eve list nodes "]; denied.ResponseStatus == nil || denied.ResponseStatus.Code != http.StatusForbidden || denied.Annotations["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("what is denied: %+v", denied)
	}
	if exec := got["admin create pods exec"]; !strings.Contains(exec.RequestURI, "command=id") || exec.ResponseStatus.Code != http.StatusNotFound {
		t.Errorf("exec: %+v", exec)
	}
	if e := got["system:serviceaccount:kube-system:some-controller get namespaces "]; e.Stage != auditv1.StageResponseComplete {
		t.Errorf("a component of the process: %+v", e)
	}
	if e := got["system:kube-scheduler watch namespaces "]; e.Stage != auditv1.StageResponseComplete || e.ResponseStatus.Code != http.StatusOK {
		t.Errorf("a watch that shares the server's objects: %+v", e)
	}
	if len(got) != 5 {
		t.Errorf("recorded: %v", got)
	}
	b, err := os.ReadFile(o.AuditLogPath)
	if err != nil || bytes.Contains(b, []byte("do-not-record")) {
		t.Errorf("the secret is in the log (%v)", err)
	}
	if info, err := os.Stat(o.AuditLogPath); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestRotation: a full file is put aside and none lost.
func TestRotation(t *testing.T) {
	o := auditing.DefaultOptions()
	o.AuditPolicyFile, o.AuditLogPath, o.AuditLogMaxSize = write(t, "policy.yaml", policy), filepath.Join(t.TempDir(), "audit.log"), 1
	s := start(t, o)
	ctx, c := t.Context(), s.Client(t)
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	names := []string{"a", "b", "c"}
	for _, name := range names {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": strings.Repeat("x", 400_000)}}
		if _, err := c.CoreV1().ConfigMaps("n").Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(o.AuditLogPath), "audit*.log"))
	if err != nil || len(files) != len(names) { // each record has the object twice
		t.Errorf("files: %v, %v", files, err)
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	for _, name := range names {
		if !bytes.Contains(all, []byte(`/configmaps","verb":"create","user":{"username":"admin"`)) || !bytes.Contains(all, []byte(`"name":"`+name+`"`)) {
			t.Errorf("configmap %s is not recorded", name)
		}
	}
}

// TestWebhook: records go to the webhook, too.
func TestWebhook(t *testing.T) {
	got := make(chan auditv1.EventList, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var list auditv1.EventList
		if b, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(b, &list) != nil {
			t.Errorf("%s, %v", b, err)
		}
		got <- list
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(hook.Close)
	o := auditing.DefaultOptions()
	o.AuditPolicyFile, o.AuditWebhookMode = write(t, "policy.yaml", policy), "blocking"
	o.AuditWebhookConfigFile = write(t, "hook.kubeconfig", `apiVersion: v1
kind: Config
clusters: [{name: hook, cluster: {server: "`+hook.URL+`"}}]
contexts: [{name: hook, context: {cluster: hook, user: ""}}]
current-context: hook
`)
	s := start(t, o)
	if _, err := s.Client(t).CoreV1().Secrets("n").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Stop() // after what it has to send
	select {
	case list := <-got:
		if list.Kind != "EventList" || len(list.Items) != 1 || list.Items[0].Verb != "list" || list.Items[0].User.Username != "admin" {
			t.Errorf("%+v", list)
		}
	default:
		t.Error("nothing came")
	}
}

// TestOptions: nothing is made of defaults, and what makes no sense is refused by the names of flag, file and field.
func TestOptions(t *testing.T) {
	if a, err := auditing.New(auditing.DefaultOptions()); a != nil || err != nil {
		t.Errorf("defaults: %v, %v", a, err)
	}
	good := write(t, "policy.yaml", policy)
	bad := write(t, "bad.yaml", strings.Replace(policy, "Metadata", "Some", 1))
	for _, test := range []struct {
		change func(*auditing.Options)
		want   []string
	}{
		{func(o *auditing.Options) { o.AuditPolicyFile, o.AuditLogPath = bad, "-" }, []string{bad, "rules[0].level", `"Some"`}},
		{func(o *auditing.Options) { o.AuditPolicyFile, o.AuditLogPath = bad+"x", "-" }, []string{bad + "x", "no such file"}},
		{func(o *auditing.Options) { o.AuditPolicyFile = good }, []string{"--audit-policy-file", "--audit-log-path"}},
		{func(o *auditing.Options) { o.AuditLogPath = "/x" }, []string{"--audit-log-path", "/x", "--audit-policy-file"}},
		{func(o *auditing.Options) { o.AuditLogMode = "never" }, []string{"--audit-log-mode", "never", "batch"}},
		{func(o *auditing.Options) { o.AuditLogFormat = "xml" }, []string{"--audit-log-format", "xml", "json"}},
		{func(o *auditing.Options) { o.AuditLogMaxAge = -1 }, []string{"--audit-log-maxage", "-1"}},
		{func(o *auditing.Options) { o.AuditPolicyFile, o.AuditWebhookConfigFile = good, bad+"x" }, []string{"--audit-webhook-config-file", bad + "x"}},
		{func(o *auditing.Options) { o.AuditPolicyFile, o.AuditLogPath = good, filepath.Join(good, "x") }, []string{"--audit-log-path", "not a directory"}},
	} {
		o := auditing.DefaultOptions()
		test.change(&o)
		_, err := auditing.New(o)
		for _, part := range test.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %v does not say %q", o, err, part)
			}
		}
	}
}
