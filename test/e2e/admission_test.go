package e2e

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/peapod/peapod/internal/testca"
)

// hookServer is test/images/webhook behind a Service, with a certificate in a Secret.
const hookServer = `
apiVersion: v1
kind: Secret
metadata: {name: certificates}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: webhook}
spec:
  selector: {matchLabels: {app: webhook}}
  template:
    metadata: {labels: {app: webhook}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: certificates, secret: {secretName: certificates}}]
      containers:
      - name: webhook
        image: webhook:1.0
        imagePullPolicy: IfNotPresent
        args: [/certificates]
        volumeMounts: [{name: certificates, mountPath: /certificates, readOnly: true}]
        readinessProbe: {httpGet: {path: /healthz, port: 8443, scheme: HTTPS}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: webhook}
spec: {selector: {app: webhook}, ports: [{port: 443, targetPort: 8443}]}
`

// hooks is a configuration of one webhook for the namespace of a test: kind, namespace, path, more of the webhook, rules.
const hooks = `
apiVersion: admissionregistration.k8s.io/v1
kind: %[1]sWebhookConfiguration
metadata: {name: %[2]s}
webhooks:
- name: hook.example.com
  clientConfig: {service: {namespace: %[2]s, name: webhook, path: %[3]s}, caBundle: %[6]s}
  sideEffects: None
  admissionReviewVersions: [v1]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[2]s}}
  %[4]s
  rules: %[5]s
`

// certificate returns a certificate for a name and its key, and the authority that signed it, PEM in base 64.
func certificate(t *testing.T, name string) (cert, key, ca string) {
	t.Helper()
	authority := testca.New(t, "ca of "+name)
	c, k := authority.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotAfter: authority.Cert.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	encode := base64.StdEncoding.EncodeToString
	return encode(c), encode(k), encode(authority.PEM)
}

// webhook runs the webhook and returns how configurations of it are made, which go with the test.
func (s *space) webhook() (configure func(kind, path, more, rules string)) {
	s.t.Helper()
	cert, key, ca := certificate(s.t, "webhook."+s.name+".svc")
	s.apply(fmt.Sprintf(hookServer, cert, key))
	s.kubectl("rollout", "status", "deployment/webhook")
	s.t.Cleanup(func() {
		s.kubectl("delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", s.name, "--ignore-not-found")
	})
	return func(kind, path, more, rules string) {
		s.t.Helper()
		s.apply(fmt.Sprintf(hooks, kind, s.name, path, more, rules, ca))
	}
}

const mapsAndPods = `[{operations: [CREATE, UPDATE], apiGroups: [""], apiVersions: [v1], resources: [configmaps, pods]},
    {operations: [CONNECT], apiGroups: [""], apiVersions: [v1], resources: [pods/attach]}]`

// untilTried makes a ConfigMap for nothing but the answer, until that is as wanted: what was configured comes into force a little later.
func (s *space) untilTried(name, what string, wanted func(*corev1.ConfigMap, error) bool) {
	s.t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		var made *corev1.ConfigMap
		made, last = s.client.CoreV1().ConfigMaps(s.name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return wanted(made, last), nil
	})
	if err != nil {
		s.t.Fatalf("ConfigMap %s: not %s in time; last error: %v", name, what, last)
	}
}

func refused(_ *corev1.ConfigMap, err error) bool { return err != nil }

func TestValidatingWebhookInAPod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	configure := s.webhook()
	configure("Validating", "/refuse", "", mapsAndPods)
	s.untilTried("refused", "refused", refused)
	s.fails([]string{"create", "configmap", "refused"}, `admission webhook "hook.example.com" denied the request: the webhook refuses refused`)
	s.fails([]string{"run", "refused", "--image=busybox"}, "the webhook refuses refused")
	if r := s.try("create", "configmap", "fine"); r.code != 0 || !strings.Contains(r.stderr, "Warning: the webhook has seen fine") {
		t.Errorf("create a ConfigMap: exit code %d, standard error %q", r.code, r.stderr)
	}
	s.kubectl("run", "p", "--image=busybox", "--image-pull-policy=IfNotPresent", "--", "sleep", "3600")
	s.ready("p")
	s.fails([]string{"attach", "p"}, "the webhook refuses p")
	contains(t, "exec, which it is not asked about", s.kubectl("exec", "p", "--", "echo", "hello"), "hello")
	contains(t, "get", s.kubectl("get", "validatingwebhookconfigurations", s.name), "NAME", "WEBHOOKS", "AGE")

	// Nobody answers at the Service: closed is closed, open is open.
	s.kubectl("scale", "deployment/webhook", "--replicas=0")
	s.untilTried("fine", "refused for want of a webhook", func(_ *corev1.ConfigMap, err error) bool {
		return err != nil && strings.Contains(err.Error(), `failed calling webhook "hook.example.com": failed to call webhook: Post "https://webhook.`+s.name+`.svc:443/refuse?timeout=10s"`)
	})
	configure("Validating", "/refuse", "failurePolicy: Ignore", mapsAndPods)
	s.untilTried("refused", "let by", func(_ *corev1.ConfigMap, err error) bool { return err == nil })

	// There is a limit to waiting.
	s.kubectl("scale", "deployment/webhook", "--replicas=1")
	s.kubectl("rollout", "status", "deployment/webhook")
	configure("Validating", "/silent", "timeoutSeconds: 1", mapsAndPods)
	s.untilTried("late", "refused for want of an answer", func(_ *corev1.ConfigMap, err error) bool {
		return err != nil && strings.Contains(err.Error(), "context deadline exceeded")
	})
}

func TestMutatingWebhookInAPod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	group := s.name + ".example.com"
	s.undefine(group)
	s.apply(gadgets(group))
	s.kubectl("wait", "--for=condition=established", "crd/gadgets."+group, "--timeout=60s")
	configure := s.webhook()
	configure("Mutating", "/change", "matchConditions: [{name: not-me, expression: \"object.metadata.name != 'skip-me'\"}]",
		`[{operations: [CREATE], apiGroups: ["", `+group+`], apiVersions: [v1], resources: [configmaps, gadgets]}]`)
	s.untilTried("m", "changed", func(m *corev1.ConfigMap, err error) bool { return err == nil && m.Data["changed"] == "yes" })
	s.kubectl("create", "configmap", "skip-me")
	if data := s.kubectl("get", "configmap", "skip-me", "-o", "jsonpath={.data}"); data != "" {
		t.Errorf("the ConfigMap that was to be left alone has %s", data)
	}
	s.apply(gadget(group, "g", "{size: 3}"))
	if spec := s.kubectl("get", "gadget."+group, "g", "-o", "jsonpath={.spec}"); spec != `{"color":"blue","size":7}` {
		t.Errorf("the changed gadget has %s: want size 7, the default color, and no taste", spec)
	}
}

// A webhook that refuses everything refuses neither its own removal, nor does it keep a server from starting again.
func TestWebhookDoesNotLockOut(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	name := "lock-" + s.name
	s.apply(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: ` + name + `}
webhooks:
- name: hook.example.com
  clientConfig: {service: {namespace: ` + s.name + `, name: nobody}}
  sideEffects: None
  admissionReviewVersions: [v1]
  rules: [{operations: ["*"], apiGroups: ["*"], apiVersions: ["*"], resources: ["*/*"]}]
`)
	s.untilTried("any", "refused", refused)
	o.killServer()
	o.restart()
	s.untilTried("any", "refused", refused)
	s.kubectl("delete", "validatingwebhookconfiguration", name)
	s.untilTried("any", "allowed", func(_ *corev1.ConfigMap, err error) bool { return err == nil })
}

// policies are a validating and a mutating policy for the namespace of a test, and their parameters.
const policies = `
apiVersion: v1
kind: ConfigMap
metadata: {name: limits}
data: {max: "3"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints: {resourceRules: [{operations: [CREATE, UPDATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}
  variables: [{name: wanted, expression: object.spec.replicas}]
  validations:
  - expression: variables.wanted <= int(params.data.max)
    messageExpression: "'at most ' + params.data.max + ' replicas, not ' + string(variables.wanted)"
  - expression: object.spec.replicas < '100'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec:
  policyName: %[1]s
  validationActions: [Deny, Audit]
  paramRef: {name: limits, namespace: %[1]s, parameterNotFoundAction: Deny}
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'first', image: 'busybox', imagePullPolicy: 'IfNotPresent'}]}}"}
  - patchType: JSONPatch
    jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'changed': 'yes'}}]"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec:
  policyName: %[1]s
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`

func TestAdmissionPolicies(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	valid := fmt.Sprintf(policies, s.name)
	// An expression that has the wrong type for the kind is a warning, one that is no expression is an error.
	s.failsIn(strings.ReplaceAll(valid, "object.spec.replicas < '100'", "objekt"), []string{"apply", "-f", "-"}, "undeclared reference to 'objekt'")
	kinds := "validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings"
	t.Cleanup(func() { s.kubectl("delete", kinds, s.name, "--ignore-not-found") })
	s.apply(valid)
	s.kubectl("wait", "--for=jsonpath={.status.observedGeneration}=1", "validatingadmissionpolicy/"+s.name, "--timeout=60s")
	contains(t, "the warnings", s.kubectl("get", "validatingadmissionpolicy", s.name, "-o", "jsonpath={.status.typeChecking.expressionWarnings[*]}"),
		"spec.validations[1].expression", "no matching overload")
	// Where it applies, the second expression would be an error. It goes, and is not missed.
	s.kubectl("patch", "validatingadmissionpolicy", s.name, "--type=json", `-p=[{"op":"remove","path":"/spec/validations/1"}]`)
	create := []string{"create", "deployment", "d", "--image=busybox", "--dry-run=server", "--replicas=4"}
	denial := fmt.Sprintf("ValidatingAdmissionPolicy '%[1]s' with binding '%[1]s' denied request: at most 3 replicas, not 4", s.name)
	s.until(create, "refused", func(r result) bool { return strings.Contains(r.stderr, denial) })
	s.kubectl("patch", "configmap", "limits", "--type=merge", `-p={"data":{"max":"4"}}`)
	s.until(create, "allowed by the new limit", func(r result) bool { return r.code == 0 })

	run := []string{"run", "p", "--image=busybox", "--image-pull-policy=IfNotPresent", "--restart=Never"}
	s.until(append(run, "--dry-run=server", "-o", "jsonpath={.spec.initContainers[*].name}"), "changed",
		func(r result) bool { return r.stdout == "first" })
	s.kubectl(append(run, "--", "true")...)
	pod := s.phase("p", corev1.PodSucceeded)
	if len(pod.Status.InitContainerStatuses) != 1 || pod.Annotations["changed"] != "yes" {
		t.Errorf("the Pod: annotations %v, init containers %v", pod.Annotations, pod.Status.InitContainerStatuses)
	}
	for _, kind := range strings.Split(kinds, ",") {
		contains(t, "get "+kind, s.kubectl("get", kind, s.name), "NAME", s.name)
		contains(t, "explain "+kind, s.kubectl("explain", kind), "admissionregistration.k8s.io")
	}
}

// until runs kubectl until it ends as wanted: what was configured comes into force a little later.
func (s *space) until(args []string, what string, wanted func(result) bool) {
	s.t.Helper()
	var last result
	err := wait.PollUntilContextTimeout(s.t.Context(), 50*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		last = s.try(args...)
		return wanted(last), nil
	})
	if err != nil {
		s.t.Fatalf("kubectl %s: not %s in time; last: exit code %d\n%s%s", strings.Join(args, " "), what, last.code, last.stdout, last.stderr)
	}
}
