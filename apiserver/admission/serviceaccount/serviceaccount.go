// Package serviceaccount gives every Pod a service account: the namespace's default one where it names none, its image
// pull secrets, and a volume with a token, the cluster's certificate authority and the namespace's name.
package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/admission"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/authz/node"
)

const (
	defaultAccount = "default"
	volumePrefix   = "kube-api-access-"
	mountPath      = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCA         = "kube-root-ca.crt"
	// tokenSeconds is an hour, and seven seconds by which the token issuer knows such tokens.
	tokenSeconds = 60*60 + 7

	enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// Plugin is the admission plugin ServiceAccount.
type Plugin struct {
	*admission.Handler
	accounts *accounts
}

var (
	_ admission.MutationInterface   = &Plugin{}
	_ admission.ValidationInterface = &Plugin{}
)

// New makes the plugin. The informer has not been started yet.
func New(client kubernetes.Interface, informer coreinformers.ServiceAccountInformer) (*Plugin, error) {
	a, err := newAccounts(client, informer)
	if err != nil {
		return nil, err
	}
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), a}, nil
}

// concerned returns the Pod that the request writes, nil where the request is none of ours: all but the making of a Pod
// and the adding of ephemeral containers.
func concerned(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetObject() == nil {
		return nil, nil
	}
	creates := a.GetOperation() == admission.Create && a.GetSubresource() == ""
	adds := a.GetOperation() == admission.Update && a.GetSubresource() == "ephemeralcontainers"
	if !creates && !adds {
		return nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("unexpected type %T", a.GetObject()))
	}
	return pod, nil
}

// Admit fills in account, pull secrets and token volume of a new Pod.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := concerned(a)
	if pod == nil || err != nil || a.GetOperation() != admission.Create || isMirror(pod) {
		return err
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	// The two fields are one: the older name follows the newer.
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		for _, s := range account.ImagePullSecrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s.Name})
		}
	}
	return nil
}

// Validate checks that the account exists and that the Pod uses what the account may.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := concerned(a)
	if pod == nil || err != nil {
		return err
	}
	if isMirror(pod) {
		if a.GetOperation() == admission.Create {
			return validateMirror(a, pod)
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		return admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforce, err := strconv.ParseBool(account.Annotations[enforceMountableSecrets]); err != nil || !enforce {
		return nil
	}
	if a.GetOperation() == admission.Update {
		err = limitEphemeral(account, pod)
	} else {
		err = limitSecrets(account, pod)
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func (p *Plugin) account(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	name := pod.Spec.ServiceAccountName
	account, err := p.accounts.get(ctx, a.GetNamespace(), name)
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), name, err))
	}
	return account, nil
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// validateMirror: the Pod runs already, from a file on its node; it has no claim on anything in the API.
func validateMirror(a admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	for resource := range node.References(pod) {
		if resource == "secrets" {
			return admission.NewForbidden(a, errors.New("a mirror pod may not reference secrets"))
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return admission.NewForbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

// automounts says whether the Pod wants a token; the Pod's word goes before the account's.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if b := pod.Spec.AutomountServiceAccountToken; b != nil {
		return *b
	}
	if b := account.AutomountServiceAccountToken; b != nil {
		return *b
	}
	return true
}

// mountToken mounts the token volume in every container that has nothing else at its place.
func mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, volumePrefix) {
			name = v.Name
			break
		}
	}
	exists := name != ""
	if !exists {
		name = volumePrefix + rand.String(5)
	}
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: mountPath}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if c := &containers[i]; !hasMount(c) {
				c.VolumeMounts = append(c.VolumeMounts, mount)
				mounted = true
			}
		}
	}
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

func hasMount(c *corev1.Container) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == mountPath {
			return true
		}
	}
	return false
}

func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
			Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace",
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
	}}
}
