package admission_test

import (
	"errors"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func serviceAccounts(t *testing.T, c *cluster) {
	pod := c.pod(t, "plain", "", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "own", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}}}
		p.Spec.Volumes = []corev1.Volume{{Name: "own", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	})
	if pod.Spec.ServiceAccountName != "default" || pod.Spec.DeprecatedServiceAccount != "default" {
		t.Errorf("service account is %q, %q", pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount)
	}
	v := pod.Spec.Volumes[len(pod.Spec.Volumes)-1]
	if !strings.HasPrefix(v.Name, "kube-api-access-") || len(v.Name) != len("kube-api-access-")+5 || v.Projected == nil || len(v.Projected.Sources) != 3 {
		t.Fatalf("token volume is %+v", v)
	}
	if s := v.Projected.Sources[0].ServiceAccountToken; *s.ExpirationSeconds != 3607 || s.Path != "token" {
		t.Errorf("token projection is %+v", s)
	}
	if m := pod.Spec.Containers[0].VolumeMounts; len(m) != 1 || m[0].Name != v.Name || !m[0].ReadOnly {
		t.Errorf("container mounts %+v", m)
	}
	if m := pod.Spec.InitContainers[0].VolumeMounts; len(m) != 1 || m[0].Name != "own" {
		t.Errorf("init container with a mount of its own mounts %+v", m)
	}
	if s := pod.Spec.Tolerations; len(s) != 2 || *s[0].TolerationSeconds != 300 {
		t.Errorf("tolerations are %+v", s)
	}
	create := func(change func(*corev1.Pod)) (*corev1.Pod, error) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		change(p)
		return c.system.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
	}
	_, err := create(func(p *corev1.Pod) { p.Name, p.Spec.ServiceAccountName = "x", "missing" })
	refused(t, err, `pods "x" is forbidden: error looking up service account default/missing: serviceaccount "missing" not found`)
	_, err = c.system.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "quiet"},
		AutomountServiceAccountToken: ptr(false), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}}, metav1.CreateOptions{})
	fine(t, err)
	pod, err = create(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" })
	fine(t, err)
	if len(pod.Spec.Volumes) != 0 || len(pod.Spec.ImagePullSecrets) != 1 || pod.Spec.ImagePullSecrets[0].Name != "registry" {
		t.Errorf("Pod of an account that mounts no token: %+v", pod.Spec)
	}
	_, err = c.system.CoreV1().Pods("nowhere").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if !apierrors.IsNotFound(err) || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("Pod in a namespace that is not there: %v", err)
	}
}

func priorities(t *testing.T, c *cluster) {
	critical := c.pod(t, "critical", "", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" })
	if *critical.Spec.Priority != 2000001000 || *critical.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority %d, %s", *critical.Spec.Priority, *critical.Spec.PreemptionPolicy)
	}
	if p := c.pod(t, "ordinary", "", nil); *p.Spec.Priority != 0 || p.Spec.PriorityClassName != "" {
		t.Errorf("priority %d, class %q", *p.Spec.Priority, p.Spec.PriorityClassName)
	}
	create := func(f func(*corev1.PodSpec)) error {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		f(&p.Spec)
		_, err := c.system.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{DryRun: []string{"All"}})
		return err
	}
	refused(t, create(func(s *corev1.PodSpec) { s.PriorityClassName = "missing" }), "no PriorityClass with name missing was found")
	refused(t, create(func(s *corev1.PodSpec) { s.Priority = ptr(int32(7)) }), "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name")
	class := func(name string) error {
		_, err := c.system.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: 5, GlobalDefault: true}, metav1.CreateOptions{})
		return err
	}
	fine(t, class("usual"))
	settle(t, func() error {
		err := class("usual-too")
		if err == nil || !strings.Contains(err.Error(), "PriorityClass usual is already marked as default. Only one default can exist") {
			fine(t, c.system.SchedulingV1().PriorityClasses().Delete(ctx, "usual-too", metav1.DeleteOptions{}))
			return errors.New("a second default class was taken")
		}
		return nil
	})
	fine(t, c.system.SchedulingV1().PriorityClasses().Delete(ctx, "usual", metav1.DeleteOptions{}))
}

func podSecurity(t *testing.T, c *cluster) {
	_, err := c.system.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "strict",
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.CoreV1().ServiceAccounts("strict").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	fine(t, err)
	create := func(privileged bool) error {
		_, err := c.system.CoreV1().Pods("strict").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &privileged}}}}}, metav1.CreateOptions{})
		return err
	}
	fine(t, create(false))
	refused(t, create(true), `violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`)
}

func reviews(t *testing.T, c *cluster) {
	bob := c.as(t, "bob")
	can, err := bob.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/apis/apps"}}}, metav1.CreateOptions{})
	fine(t, err)
	if !can.Status.Allowed || can.Status.Reason != `RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"` {
		t.Errorf("self access review: %+v", can.Status)
	}
	rules, err := bob.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	fine(t, err)
	if len(rules.Status.ResourceRules) != 2 || len(rules.Status.NonResourceRules) != 2 || rules.Status.Incomplete {
		t.Errorf("self rules review: %+v", rules.Status)
	}
	_, err = bob.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}}}, metav1.CreateOptions{})
	refused(t, err, "cannot create resource \"subjectaccessreviews\"")
	review, err := c.system.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:node:n9", Groups: []string{"system:nodes"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "list", Version: "v1", Resource: "pods", FieldSelector: &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n9"}}}}, metav1.CreateOptions{})
	fine(t, err)
	if !review.Status.Allowed {
		t.Errorf("access review with a field selector: %+v", review.Status)
	}
	_, err = c.system.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "a",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "kube-system", Verb: "get", Resource: "pods"}}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "must match metadata.namespace") {
		t.Errorf("local review of another namespace: %v", err)
	}
	_, err = c.system.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "exactly one of nonResourceAttributes or resourceAttributes must be specified") ||
		!strings.Contains(err.Error(), "at least one of user or group must be specified") {
		t.Errorf("empty review: %v", err)
	}
}
