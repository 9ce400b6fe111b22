package admission_test

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

func newFS() vfs.FS { return vfs.NewMem() }

func asMaster() user.Info {
	return &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
}

// about is what is asked about ConfigMaps and widgets.
func about(operations ...admissionv1.OperationType) *admissionv1.MatchResources {
	m := &admissionv1.MatchResources{}
	for _, r := range []admissionv1.RuleWithOperations{rule("", "v1", "configmaps", operations...), rule("example.com", "v1", "widgets", operations...)} {
		m.ResourceRules = append(m.ResourceRules, admissionv1.NamedRuleWithOperations{RuleWithOperations: r})
	}
	return m
}

// policy puts a policy with one expression, and a refusal of what is called probe, to work.
func (c *cluster) policy(t *testing.T, name, expression string) {
	t.Helper()
	c.bound(t, name, nil, admissionv1.ValidatingAdmissionPolicySpec{
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name != 'probe'"}, {Expression: expression}}})
}

// bound puts a policy to work that denies.
func (c *cluster) bound(t *testing.T, name string, params *admissionv1.ParamRef, spec admissionv1.ValidatingAdmissionPolicySpec) {
	t.Helper()
	spec.MatchConstraints = about(admissionv1.Create, admissionv1.Update)
	hooks := c.system.AdmissionregistrationV1()
	if _, err := hooks.ValidatingAdmissionPolicies().Create(t.Context(),
		&admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := hooks.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ParamRef: params,
			ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestValidatingPolicy(t *testing.T) {
	c := start(t)
	c.bound(t, "p", nil, admissionv1.ValidatingAdmissionPolicySpec{
		Variables: []admissionv1.Variable{{Name: "keys", Expression: "has(object.data) ? object.data.size() : 0"}},
		Validations: []admissionv1.Validation{
			{Expression: "object.metadata.name != 'probe'"},
			{Expression: "variables.keys < 2", MessageExpression: "'too many keys: ' + string(variables.keys)", Reason: ptr(metav1.StatusReasonForbidden)},
			{Expression: "authorizer.group('').resource('secrets').namespace(request.namespace).check('delete').allowed()", Message: "not for you"},
			{Expression: "namespaceObject.metadata.name == 'default'"},
		},
		MatchConditions:  []admissionv1.MatchCondition{{Name: "c", Expression: "object.metadata.name != 'skipped'"}},
		AuditAnnotations: []admissionv1.AuditAnnotation{{Key: "keys", ValueExpression: "string(variables.keys)"}},
	})
	c.inForce(t)
	two := map[string]string{"a": "b", "c": "d"}
	_, err := c.tried(t.Context(), c.system, "x", two)
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: too many keys: 2") {
		t.Errorf("two keys: got %v", err)
	}
	for _, name := range []string{"skipped", "one"} {
		data := map[string]string{"a": "b"}
		if name == "skipped" {
			data = two
		}
		if _, err := c.tried(t.Context(), c.system, name, data); err != nil {
			t.Errorf("create %s: %v", name, err)
		}
	}
	c.grant(t, "eve", rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	eventually(t, "eve is told that it is not for her", func(ctx context.Context) (bool, error) {
		_, err := c.tried(ctx, c.as(t, "eve"), "x", nil)
		return err != nil && strings.Contains(err.Error(), "not for you"), nil
	})
}

// grant lets a user do something.
func (c *cluster) grant(t *testing.T, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	roles := c.system.RbacV1()
	if _, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Parameters are those of now, also for a policy that comes after all others of its kind of parameters have gone.
func TestPolicyParameters(t *testing.T) {
	c := start(t)
	maps := c.system.CoreV1().ConfigMaps("default")
	limit, err := maps.Create(t.Context(), configMap("limits", map[string]string{"max": "1"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref := &admissionv1.ParamRef{Name: "limits", Namespace: "default", ParameterNotFoundAction: ptr(admissionv1.DenyAction)}
	spec := admissionv1.ValidatingAdmissionPolicySpec{
		ParamKind: &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name != 'probe'"},
			{Expression: "object.metadata.name == 'limits' || object.data.size() <= int(params.data.max)", Message: "too many"}},
	}
	// This one stays, so that what policies work by is not made anew.
	c.policy(t, "other", "true")
	two := map[string]string{"a": "b", "c": "d"}
	refused := func(want bool) {
		t.Helper()
		eventually(t, "two keys are refused or not, as the parameters say", func(ctx context.Context) (bool, error) {
			_, err := c.tried(ctx, c.system, "x", two)
			return want == (err != nil && strings.Contains(err.Error(), "too many")), nil
		})
	}
	c.bound(t, "p", ref, spec)
	refused(true)
	limit.Data["max"] = "2"
	if _, err := maps.Update(t.Context(), limit, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	refused(false)
	hooks := c.system.AdmissionregistrationV1()
	if err := hooks.ValidatingAdmissionPolicyBindings().Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := hooks.ValidatingAdmissionPolicies().Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), "limits", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound(t, "p", ref, spec)
	eventually(t, "a ConfigMap without parameters is refused", func(ctx context.Context) (bool, error) {
		_, err := c.tried(ctx, c.system, "x", two)
		return err != nil && strings.Contains(err.Error(), "no params found for policy binding with `Deny` parameterNotFoundAction"), nil
	})
	if _, err := c.tried(t.Context(), c.system, "x", two); err == nil {
		t.Error("without parameters: allowed")
	}
}

// Once the last policy has gone nothing is checked any more, and the next is.
func TestPoliciesComeAndGo(t *testing.T) {
	c := start(t)
	hooks := c.system.AdmissionregistrationV1()
	for range 2 {
		c.policy(t, "p", "true")
		c.inForce(t)
		if err := hooks.ValidatingAdmissionPolicyBindings().Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := hooks.ValidatingAdmissionPolicies().Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "probe is allowed", func(ctx context.Context) (bool, error) {
			_, err := c.tried(ctx, c.system, "probe", nil)
			return err == nil, nil
		})
	}
}

func TestMutatingPolicies(t *testing.T) {
	c := start(t)
	widgets := c.define(t)
	hooks := c.system.AdmissionregistrationV1()
	if _, err := hooks.MutatingAdmissionPolicies().Create(t.Context(), &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: about(admissionv1.Create), ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Variables:       []admissionv1.Variable{{Name: "who", Expression: "request.userInfo.username"}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: "object.metadata.name != 'skipped'"}},
			Mutations: []admissionv1.Mutation{
				{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{
					Expression: `Object{metadata: Object.metadata{labels: {"by": variables.who.replace(":", "-")}}}`}},
				{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{
					Expression: `[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/patched"), value: "yes"}]`}},
			}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := hooks.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var made *corev1.ConfigMap
	eventually(t, "a ConfigMap is changed", func(ctx context.Context) (done bool, err error) {
		made, err = c.tried(ctx, c.system, "x", map[string]string{"a": "b"})
		return err == nil && len(made.Labels) > 0, err
	})
	if made.Labels["by"] != "system-apiserver" || made.Labels["example.com/patched"] != "yes" || made.Data["a"] != "b" {
		t.Errorf("the changed ConfigMap: %v %v", made.Labels, made.Data)
	}
	if skipped, err := c.tried(t.Context(), c.system, "skipped", nil); err != nil || len(skipped.Labels) > 0 {
		t.Errorf("what the conditions leave out: %v, %v", skipped.Labels, err)
	}
	w, err := widgets.Create(t.Context(), widget("w"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.GetLabels(); got["by"] != "admin" || got["example.com/patched"] != "yes" || w.Object["color"] != "red" {
		t.Errorf("the changed widget: %v", w.Object)
	}
}

// A policy that changes objects knows its parameters and what the user may do, is asked about updates as well, and lets by what it cannot
// decide on where it says so.
func TestMutatingPolicyParameters(t *testing.T) {
	c := start(t)
	maps := c.system.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), configMap("tiers", map[string]string{"tier": "gold"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	hooks := c.system.AdmissionregistrationV1()
	if _, err := hooks.MutatingAdmissionPolicies().Create(t.Context(), &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: about(admissionv1.Create, admissionv1.Update), ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			FailurePolicy: ptr(admissionv1.Ignore), ParamKind: &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "decidable", Expression: "object.metadata.name != 'odd' || object.data['none'] == 'x'"},
				{Name: "may", Expression: "authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()"}},
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{
				Expression: `Object{metadata: Object.metadata{labels: {"tier": params.data.tier}}}`}}},
		}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := hooks.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p",
			ParamRef: &admissionv1.ParamRef{Name: "tiers", Namespace: "default", ParameterNotFoundAction: ptr(admissionv1.DenyAction)}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a ConfigMap gets the label of the parameters", func(ctx context.Context) (bool, error) {
		made, err := c.tried(ctx, c.system, "x", nil)
		return err == nil && made.Labels["tier"] == "gold", nil
	})
	made, err := maps.Create(t.Context(), configMap("y", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Labels["tier"] = "tin"
	if made, err = maps.Update(t.Context(), made, metav1.UpdateOptions{}); err != nil || made.Labels["tier"] != "gold" {
		t.Errorf("updated: %v, %v", made.Labels, err)
	}
	if odd, err := c.tried(t.Context(), c.system, "odd", nil); err != nil || len(odd.Labels) > 0 {
		t.Errorf("what cannot be decided on: %v, %v", odd.Labels, err)
	}
	c.grant(t, "eve", rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	eventually(t, "eve, who may not delete Secrets, gets no label", func(ctx context.Context) (bool, error) {
		made, err := c.tried(ctx, c.as(t, "eve"), "x", nil)
		if err == nil && len(made.Labels) > 0 {
			t.Fatalf("eve's has the labels %v", made.Labels)
		}
		return err == nil, nil
	})
}

// Nobody has a policy read for him what he may not read.
func TestParametersOfOthers(t *testing.T) {
	c := start(t)
	all := []string{"create", "get", "list", "update"}
	c.grant(t, "eve", rbacv1.PolicyRule{Verbs: all, APIGroups: []string{admissionv1.GroupName}, Resources: []string{"*"}},
		rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
	hooks := c.as(t, "eve").AdmissionregistrationV1()
	policy := func(kind string) *admissionv1.ValidatingAdmissionPolicy {
		return &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(kind)}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionv1.ParamKind{APIVersion: "v1", Kind: kind}, MatchConstraints: about(admissionv1.Create),
			Validations: []admissionv1.Validation{{Expression: "true"}}}}
	}
	eventually(t, "eve may use ConfigMaps, which she may read", func(ctx context.Context) (bool, error) {
		_, err := hooks.ValidatingAdmissionPolicies().Create(ctx, policy("ConfigMap"), metav1.CreateOptions{})
		return err == nil, nil
	})
	_, err := hooks.ValidatingAdmissionPolicies().Create(t.Context(), policy("Secret"), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `spec.paramKind: Forbidden: user "eve" must have "get" permission on all objects`) {
		t.Errorf("a policy with Secrets as parameters: got %v", err)
	}
	bind := func(name string, ref *admissionv1.ParamRef) error {
		ref.ParameterNotFoundAction = ptr(admissionv1.DenyAction)
		_, err := hooks.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "configmap", ParamRef: ref,
				ValidationActions: []admissionv1.ValidationAction{admissionv1.Audit}}}, metav1.CreateOptions{})
		return err
	}
	if err := bind("one", &admissionv1.ParamRef{Name: "x", Namespace: "default"}); err != nil {
		t.Errorf("a binding with what eve may get: %v", err)
	}
	if err := bind("many", &admissionv1.ParamRef{Selector: &metav1.LabelSelector{}}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `does not have "list" permission`) {
		t.Errorf("a binding with what eve may not list: got %v", err)
	}
}
