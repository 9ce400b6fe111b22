package serviceaccount

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// limitSecrets holds a Pod to the secrets that its account lists, where the account asks for that.
func limitSecrets(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := map[string]bool{}
	for _, s := range account.Secrets {
		mountable[s.Name] = true
	}
	for _, v := range pod.Spec.Volumes {
		if s := v.Secret; s != nil && !mountable[s.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", s.SecretName, account.Name)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := limitEnvironment("init container", c.Name, c.Env, account.Name, mountable); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if err := limitEnvironment("container", c.Name, c.Env, account.Name, mountable); err != nil {
			return err
		}
	}
	pullable := map[string]bool{}
	for _, s := range account.ImagePullSecrets {
		pullable[s.Name] = true
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		if !pullable[s.Name] {
			return fmt.Errorf("imagePullSecret with name=%q is not allowed because service account %s does not reference that imagePullSecret", s.Name, account.Name)
		}
	}
	return nil
}

// limitEphemeral is limitSecrets for ephemeral containers.
func limitEphemeral(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := map[string]bool{}
	for _, s := range account.Secrets {
		mountable[s.Name] = true
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if err := limitEnvironment("ephemeral container", c.Name, c.Env, account.Name, mountable); err != nil {
			return err
		}
	}
	return nil
}

func limitEnvironment(kind, container string, env []corev1.EnvVar, account string, mountable map[string]bool) error {
	for _, e := range env {
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			continue
		}
		if name := e.ValueFrom.SecretKeyRef.Name; !mountable[name] {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, container, e.Name, name, account)
		}
	}
	return nil
}
