package secret

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks keys, size and what each well-known type promises its readers.
func (kind) Validate(_ context.Context, obj *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("data")
	size := 0
	for key, value := range obj.Data {
		for _, msg := range validation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(path.Key(key), key, msg))
		}
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(path, "", corev1.MaxSecretSize))
	}
	return append(errs, validateType(obj, path)...)
}

func validateType(obj *corev1.Secret, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	require := func(keys ...string) {
		for _, key := range keys {
			if _, ok := obj.Data[key]; !ok {
				errs = append(errs, field.Required(path.Key(key), ""))
			}
		}
	}
	switch obj.Type {
	case corev1.SecretTypeServiceAccountToken:
		// The uid and the token itself may be filled in later by a controller.
		if obj.Annotations[corev1.ServiceAccountNameKey] == "" {
			key := field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey)
			errs = append(errs, field.Required(key, ""))
		}
	case corev1.SecretTypeDockercfg:
		errs = append(errs, validateJSON(obj, corev1.DockerConfigKey, path)...)
	case corev1.SecretTypeDockerConfigJson:
		errs = append(errs, validateJSON(obj, corev1.DockerConfigJsonKey, path)...)
	case corev1.SecretTypeBasicAuth:
		// Either may be absent, and the one that is there may be empty.
		_, user := obj.Data[corev1.BasicAuthUsernameKey]
		_, password := obj.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			require(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(obj.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(path.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

// validateJSON checks that the value at key is a JSON object. The error never quotes the value.
func validateJSON(obj *corev1.Secret, key string, path *field.Path) field.ErrorList {
	value, ok := obj.Data[key]
	if !ok {
		return field.ErrorList{field.Required(path.Key(key), "")}
	}
	if err := json.Unmarshal(value, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(path.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

// ValidateUpdate keeps the type for ever, and an immutable Secret as it was.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *corev1.Secret) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(obj.Type, old.Type, field.NewPath("type"))
	if old.Immutable != nil && *old.Immutable {
		const msg = "field is immutable when `immutable` is set"
		if obj.Immutable == nil || !*obj.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), msg))
		}
		if !maps.EqualFunc(obj.Data, old.Data, bytes.Equal) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), msg))
		}
	}
	return append(errs, k.Validate(ctx, obj)...)
}
