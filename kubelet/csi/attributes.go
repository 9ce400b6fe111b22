package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// supports returns an error where the driver is not made for volumes with that life.
func supports(object *storagev1.CSIDriver, driver string, mode storagev1.VolumeLifecycleMode) error {
	switch {
	case object == nil && mode == storagev1.VolumeLifecyclePersistent:
		return nil
	case object == nil:
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", mode, driver)
	case !slices.Contains(object.Spec.VolumeLifecycleModes, mode):
		return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, driver, object.Spec.VolumeLifecycleModes)
	}
	return nil
}

// publishRequest is all of NodePublishVolume's but where.
func (p *Plugin) publishRequest(ctx context.Context, d *driver, object *storagev1.CSIDriver, v *Volume, staging string, publishContext map[string]string) (*csi.NodePublishVolumeRequest, error) {
	ref, attributes := (*v1.SecretReference)(nil), map[string]string{}
	if v.Persistent != nil {
		ref = v.Persistent.Spec.CSI.NodePublishSecretRef
		maps.Copy(attributes, v.Persistent.Spec.CSI.VolumeAttributes)
	} else {
		if own := v.Inline.NodePublishSecretRef; own != nil {
			ref = &v1.SecretReference{Namespace: v.Pod.Namespace, Name: own.Name}
		}
		maps.Copy(attributes, v.Inline.VolumeAttributes)
	}
	secrets, err := p.secrets(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("fetching NodePublishSecretRef failed: %w", err)
	}
	if object != nil {
		if object.Spec.PodInfoOnMount != nil && *object.Spec.PodInfoOnMount {
			maps.Copy(attributes, podInfo(v))
		}
		tokens, err := tokensFor(ctx, object, v)
		if err != nil {
			return nil, err
		}
		if in := object.Spec.ServiceAccountTokenInSecrets; in != nil && *in {
			maps.Copy(secrets, tokens)
		} else {
			maps.Copy(attributes, tokens)
		}
	}
	group := group(v)
	takes, err := d.can(ctx, csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP)
	if err != nil {
		return nil, err
	}
	if !takes {
		group = ""
	}
	capability, err := d.capability(ctx, v, group)
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.handle(), PublishContext: publishContext, StagingTargetPath: staging, VolumeCapability: capability,
		Readonly: v.ReadOnly, Secrets: secrets, VolumeContext: attributes,
	}, nil
}

// podInfo is what a driver is told of the Pod (podInfoOnMount).
func podInfo(v *Volume) map[string]string {
	const prefix = "csi.storage.k8s.io/"
	return map[string]string{
		prefix + "pod.name":            v.Pod.Name,
		prefix + "pod.namespace":       v.Pod.Namespace,
		prefix + "pod.uid":             string(v.Pod.UID),
		prefix + "serviceAccount.name": v.Pod.Spec.ServiceAccountName,
		prefix + "ephemeral":           strconv.FormatBool(v.lifecycle() == storagev1.VolumeLifecycleEphemeral),
	}
}

// tokensFor are the tokens of the Pod's service account that the driver asks for, by audience.
func tokensFor(ctx context.Context, object *storagev1.CSIDriver, v *Volume) (map[string]string, error) {
	if len(object.Spec.TokenRequests) == 0 {
		return nil, nil
	}
	tokens := map[string]authenticationv1.TokenRequestStatus{}
	for _, r := range object.Spec.TokenRequests {
		got, err := v.Token(ctx, r.Audience, r.ExpirationSeconds)
		if err != nil {
			return nil, err
		}
		tokens[r.Audience] = got
	}
	text, err := json.Marshal(tokens)
	if err != nil {
		return nil, err
	}
	return map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(text)}, nil
}

// secrets returns the data of a secret, which may be changed; of none it is empty.
func (p *Plugin) secrets(ctx context.Context, ref *v1.SecretReference) (map[string]string, error) {
	out := map[string]string{}
	if ref == nil {
		return out, nil
	}
	s, err := p.cfg.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	for key, value := range s.Data {
		out[key] = string(value)
	}
	return out, nil
}
