package pod

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func manifest(t *testing.T, text string) (*corev1.Pod, error, error) {
	t.Helper()
	m := NewManifest()
	p, warning, err := m.Decode([]byte(text))
	if err != nil {
		return nil, warning, err
	}
	p.Namespace = "default"
	m.Complete(p)
	return p, warning, m.Validate(p)
}

const plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: c, image: i:1}]\n"

func TestManifestIsCompleted(t *testing.T) {
	p, warning, err := manifest(t, plain)
	if err != nil || warning != nil {
		t.Fatal(warning, err)
	}
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways || p.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent ||
		p.Status.QOSClass != corev1.PodQOSBestEffort || p.Status.Phase != corev1.PodPending {
		t.Errorf("not completed: %+v", p)
	}
	if _, _, err := manifest(t, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}`); err != nil {
		t.Error(err)
	}
}

// An unknown field is told of, and is no error: a newer manifest runs on an older node.
func TestManifestWithAnUnknownFieldIsTaken(t *testing.T) {
	p, warning, err := manifest(t, plain+"  newField: 1\n")
	if err != nil || warning == nil || !strings.Contains(warning.Error(), `unknown field "spec.newField"`) || p == nil {
		t.Errorf("warning %v, error %v", warning, err)
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	volume := func(source string) string { return plain + "  volumes: [{name: v, " + source + "}]\n" }
	projected := func(source string) string { return volume("projected: {sources: [" + source + "]}") }
	container := func(more string) string { return strings.Replace(plain, "image: i:1", "image: i:1, "+more, 1) }
	for text, want := range map[string]string{
		"a: [":                          "yaml",
		"kind: Pod":                     "apiVersion",
		"apiVersion: v1\nkind: Service": "give each Pod a file of its own",
		"apiVersion: v1\nkind: Pod":     "metadata.name",
		strings.Replace(plain, "name: c", "name: C", 1):                                "spec.containers[0].name",
		strings.Replace(plain, "name: a", "name: A", 1):                                "metadata.name",
		plain + "  serviceAccountName: x\n":                                            "spec.serviceAccountName: static pods may not reference serviceaccounts",
		plain + "  serviceAccount: x\n":                                                "static pods may not reference serviceaccounts",
		plain + "  imagePullSecrets: [{name: x}]\n":                                    "spec.imagePullSecrets: static pods may not reference secrets",
		plain + "  resourceClaims: [{name: x, resourceClaimName: z}]\n":                "static pods may not reference resourceclaims",
		container("envFrom: [{secretRef: {name: x}}]"):                                 "spec.containers[0].envFrom[0].secretRef: static pods may not reference secrets",
		container("envFrom: [{configMapRef: {name: x}}]"):                              "static pods may not reference configmaps",
		container("env: [{name: A, valueFrom: {secretKeyRef: {name: x, key: z}}}]"):    "static pods may not reference secrets",
		container("env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: z}}}]"): "static pods may not reference configmaps",
		volume("configMap: {name: x}"):                                                 "static pods may not reference configmaps (via configmap volumes)",
		volume("secret: {secretName: x}"):                                              "static pods may not reference secrets (via secret volumes)",
		volume("csi: {driver: x.example.org}"):                                         "static pods may not reference csidrivers (via CSI volumes)",
		volume("persistentVolumeClaim: {claimName: x}"):                                "spec.volumes[0].persistentVolumeClaim: static pods may not reference persistentvolumeclaims",
		projected("configMap: {name: x}"):                                              "static pods may not reference configmaps (via projected volumes)",
		projected("secret: {name: x}"):                                                 "static pods may not reference secrets (via projected volumes)",
		projected("serviceAccountToken: {path: x}"):                                    "spec.volumes[0].projected.sources[0].serviceAccountToken",
		projected("clusterTrustBundle: {name: x, path: z}"):                            "static pods may not reference clustertrustbundles",
	} {
		if _, _, err := manifest(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q, of\n%s", err, want, text)
		}
	}
	for _, source := range []string{"downwardAPI: {items: [{path: f, fieldRef: {fieldPath: metadata.name}}]}", "emptyDir: {}", "hostPath: {path: /x}"} {
		if _, _, err := manifest(t, volume(source)); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
}
