package pod

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/peapod/peapod/api/core/podspec"
)

// Manifest reads Pods from files, for nodes that run some without the API: what the API does to a Pod that is written to it is done
// here, but for admission.
type Manifest struct{ reader runtime.Decoder }

// NewManifest makes a reader.
func NewManifest() *Manifest {
	// JSON is YAML. Strict, to tell of fields that nobody knows; they are no error.
	return &Manifest{json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})}
}

// Decode reads one Pod as it is written. It is valid though warning is not nil, which names what in it is not known.
func (m *Manifest) Decode(data []byte) (p *corev1.Pod, warning, err error) {
	obj, _, err := m.reader.Decode(data, nil, nil)
	if err != nil && runtime.IsStrictDecodingError(err) && obj != nil {
		warning, err = err, nil
	}
	if err != nil {
		return nil, nil, err
	}
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("invalid pod: the file has a %s; give each Pod a file of its own", obj.GetObjectKind().GroupVersionKind().Kind)
	}
	if p.Name == "" {
		return nil, nil, errors.New("invalid pod: metadata.name: name is needed for the pod")
	}
	return p, warning, nil
}

// Complete fills in what the user has left out.
func (m *Manifest) Complete(p *corev1.Pod) {
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = p.Spec.DeprecatedServiceAccount
	}
	kind{}.Default(p)
	kind{}.PrepareForCreate(context.Background(), p)
}

// Validate says why a complete Pod cannot run without the API, nil if it can.
func (m *Manifest) Validate(p *corev1.Pod) error {
	errs := apivalidation.ValidateObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, metaPath)
	errs = append(errs, kind{}.Validate(context.Background(), p)...)
	if len(errs) > 0 {
		return fmt.Errorf("invalid pod: %w", errs.ToAggregate())
	}
	if path, resource := apiReference(p); resource != "" {
		return fmt.Errorf("%s: static pods may not reference %s", path, resource)
	}
	return nil
}

// apiReference finds a place where the Pod names an object of the API, and says of what resource; empty if there is none.
func apiReference(p *corev1.Pod) (path *field.Path, resource string) {
	switch s := &p.Spec; {
	case s.ServiceAccountName != "":
		return specPath.Child("serviceAccountName"), "serviceaccounts"
	case len(s.ImagePullSecrets) > 0:
		return specPath.Child("imagePullSecrets"), "secrets"
	case len(s.ResourceClaims) > 0:
		return specPath.Child("resourceClaims"), "resourceclaims"
	}
	podspec.Visit(&p.Spec, specPath, func(c *corev1.Container, at *field.Path) {
		if resource != "" {
			return
		}
		if below, r := environmentReference(c, at); r != "" {
			path, resource = below, r
		}
	})
	if resource != "" {
		return path, resource
	}
	for i := range p.Spec.Volumes {
		at := specPath.Child("volumes").Index(i)
		if below, resource := volumeReference(&p.Spec.Volumes[i].VolumeSource, at); resource != "" {
			return below, resource
		}
	}
	return nil, ""
}

func environmentReference(c *corev1.Container, at *field.Path) (*field.Path, string) {
	for i, from := range c.EnvFrom {
		switch at := at.Child("envFrom").Index(i); {
		case from.SecretRef != nil:
			return at.Child("secretRef"), "secrets"
		case from.ConfigMapRef != nil:
			return at.Child("configMapRef"), "configmaps"
		}
	}
	for i, env := range c.Env {
		switch at := at.Child("env").Index(i).Child("valueFrom"); {
		case env.ValueFrom == nil:
		case env.ValueFrom.SecretKeyRef != nil:
			return at.Child("secretKeyRef"), "secrets"
		case env.ValueFrom.ConfigMapKeyRef != nil:
			return at.Child("configMapKeyRef"), "configmaps"
		}
	}
	return nil, ""
}

func volumeReference(v *corev1.VolumeSource, at *field.Path) (*field.Path, string) {
	switch {
	case v.ConfigMap != nil:
		return at.Child("configMap"), "configmaps (via configmap volumes)"
	case v.Secret != nil:
		return at.Child("secret"), "secrets (via secret volumes)"
	case v.CSI != nil:
		return at.Child("csi"), "csidrivers (via CSI volumes)"
	case v.PersistentVolumeClaim != nil:
		return at.Child("persistentVolumeClaim"), "persistentvolumeclaims"
	case v.Ephemeral != nil:
		return at.Child("ephemeral"), "persistentvolumeclaims (via ephemeral volumes)"
	case v.Glusterfs != nil:
		return at.Child("glusterfs"), "endpoints (via glusterFS volumes)"
	case v.AzureFile != nil:
		return at.Child("azureFile"), "secrets (via azureFile volumes)"
	case v.Projected == nil:
		return nil, ""
	}
	for i, s := range v.Projected.Sources {
		switch at := at.Child("projected", "sources").Index(i); {
		case s.ConfigMap != nil:
			return at.Child("configMap"), "configmaps (via projected volumes)"
		case s.Secret != nil:
			return at.Child("secret"), "secrets (via projected volumes)"
		case s.ServiceAccountToken != nil:
			return at.Child("serviceAccountToken"), "serviceaccounts (via projected volumes)"
		case s.ClusterTrustBundle != nil:
			return at.Child("clusterTrustBundle"), "clustertrustbundles"
		case s.PodCertificate != nil:
			return at.Child("podCertificate"), "podcertificates"
		}
	}
	return nil, ""
}
