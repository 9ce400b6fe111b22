package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// puller is a Pod that runs an image with a pull policy.
func puller(name, image, policy, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  terminationGracePeriodSeconds: 0\n" + spec +
		"  containers:\n  - {name: main, image: \"" + image + "\", imagePullPolicy: " + policy + ", command: [sh, -c, 'echo runs; exec sleep 1000000']}\n"
}

func startRegistry(t *testing.T, user, password string) *cluster.Registry {
	t.Helper()
	r, err := cluster.StartRegistry(user, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func push(t *testing.T, r *cluster.Registry, image, repository string) {
	t.Helper()
	if err := r.Push(t.Context(), shared.archives.File(image), repository); err != nil {
		t.Fatal(err)
	}
}

func TestPullPolicies(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	r := startRegistry(t, "", "")
	push(t, r, "busybox", "team/app:v1")
	image := r.Host + "/team/app:v1"

	s.apply(puller("never", image, "Never", ""))
	contains(t, "message", s.waiting("never", "main", "ErrImageNeverPull"), `Container image "`+image+`" is not present with pull policy of Never`)
	s.event("never", "ErrImageNeverPull", `is not present with pull policy of Never`)

	s.apply(puller("first", image, "IfNotPresent", ""))
	s.ready("first")
	s.event("first", "Pulling", `Pulling image "`+image+`"`)
	s.event("first", "Pulled", `Successfully pulled image "`+image+`" in `)
	id := s.kubectl("get", "pod", "first", "-o", "jsonpath={.status.containerStatuses[0].imageID}")
	contains(t, "image ID", id, r.Host+"/team/app@sha256:")

	s.apply(puller("second", image, "IfNotPresent", ""))
	s.ready("second")
	s.event("second", "Pulled", `Container image "`+image+`" already present on machine`)

	// Now that it is here, Never runs it too, without being made again.
	s.ready("never")

	// Always asks the registry: it finds what the tag means since.
	push(t, r, "ubuntu", "team/app:v1")
	s.apply(puller("third", image, "IfNotPresent", ""))
	s.apply(puller("always", image, "Always", ""))
	s.ready("third", "always")
	equal(t, "IfNotPresent runs", s.kubectl("get", "pod", "third", "-o", "jsonpath={.status.containerStatuses[0].imageID}"), id)
	if now := s.kubectl("get", "pod", "always", "-o", "jsonpath={.status.containerStatuses[0].imageID}"); now == id {
		t.Errorf("Always runs the old image %s", now)
	}
	s.kubectl("exec", "always", "--", "test", "-e", "/bin/bash")
}

func TestPullErrors(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	r := startRegistry(t, "", "")
	push(t, r, "busybox", "app:v1")

	missing := r.Host + "/no/such:v1"
	s.apply(puller("missing", missing, "Always", ""))
	s.waiting("missing", "main", "ErrImagePull", "ImagePullBackOff")
	s.event("missing", "Failed", `Failed to pull image "`+missing+`": `)
	s.event("missing", "Failed", "Error: ErrImagePull")
	contains(t, "message", s.waiting("missing", "main", "ImagePullBackOff"), `Back-off pulling image "`+missing+`"`)
	s.event("missing", "BackOff", `Back-off pulling image "`+missing+`"`)
	if row := s.kubectl("get", "pod", "missing", "--no-headers"); !strings.Contains(row, "ImagePull") {
		t.Errorf("row %q", row)
	}
	s.fails([]string{"logs", "missing"}, `container "main" in pod "missing" is waiting to start: `)

	// The registry is down, and comes back: the Pod runs without anybody's help.
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	image := r.Host + "/app:v1"
	s.apply(puller("down", image, "IfNotPresent", ""))
	s.waiting("down", "main", "ImagePullBackOff")
	s.event("down", "Failed", "connection refused")
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	s.ready("down")

	bad := "UPPER/case::x"
	s.apply(puller("invalid", bad, "IfNotPresent", ""))
	contains(t, "message", s.waiting("invalid", "main", "InvalidImageName"), `Failed to apply default image tag "`+bad+`": couldn't parse image name`)
	s.event("invalid", "InspectFailed", "couldn't parse image name")
}

func TestImagePullSecrets(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	r := startRegistry(t, "me", "s3cret")
	push(t, r, "busybox", "private:v1")
	image := r.Host + "/private:v1"
	s.apply(puller("without", image, "Always", ""))
	s.waiting("without", "main", "ErrImagePull", "ImagePullBackOff")
	s.event("without", "Failed", `Failed to pull image "`+image+`": `)

	s.kubectl("create", "secret", "docker-registry", "mine", "--docker-server="+r.Host, "--docker-username=me", "--docker-password=s3cret")
	s.kubectl("create", "secret", "docker-registry", "wrong", "--docker-server="+r.Host, "--docker-username=me", "--docker-password=guess")
	s.apply(puller("with", image, "Always", "  imagePullSecrets: [{name: wrong}, {name: mine}]\n"))
	s.ready("with")
	s.apply(puller("wrong", image, "Always", "  imagePullSecrets: [{name: wrong}]\n"))
	s.waiting("wrong", "main", "ErrImagePull", "ImagePullBackOff")
	s.apply(puller("absent", image, "Always", "  imagePullSecrets: [{name: absent}]\n"))
	s.event("absent", "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (absent)")

	// A service account brings its own.
	s.kubectl("patch", "serviceaccount", "default", "-p", `{"imagePullSecrets": [{"name": "mine"}]}`)
	s.apply(puller("account", image, "Always", ""))
	s.ready("account")
	equal(t, "secret given", s.kubectl("get", "pod", "account", "-o", "jsonpath={.spec.imagePullSecrets[0].name}"), "mine")
	p := s.phase("with", corev1.PodRunning)
	contains(t, "image ID", p.Status.ContainerStatuses[0].ImageID, r.Host+"/private@sha256:")
}

// TestImageVolumes: images of volumes are pulled as those of containers are.
func TestImageVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	r := startRegistry(t, "me", "s3cret")
	push(t, r, "copier:1.0", "data:v1")
	image := r.Host + "/data:v1"
	mounts := func(name, policy, spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  terminationGracePeriodSeconds: 0\n" + spec +
			"  volumes: [{name: data, image: {reference: \"" + image + "\", pullPolicy: " + policy + "}}]\n" +
			"  containers:\n  - {name: main, image: busybox, command: [sh, -c, 'exec sleep 1000000'], volumeMounts: [{name: data, mountPath: /data}]}\n"
	}
	s.apply(mounts("never", "Never", ""))
	contains(t, "message", s.waiting("never", "main", "ErrImageNeverPull"), `Container image "`+image+`" is not present with pull policy of Never`)
	s.apply(mounts("without", "IfNotPresent", ""))
	s.waiting("without", "main", "ErrImagePull", "ImagePullBackOff")
	s.event("without", "Failed", `Failed to pull image "`+image+`": `)
	contains(t, "message", s.waiting("without", "main", "ImagePullBackOff"), `Back-off pulling image "`+image+`"`)

	s.kubectl("create", "secret", "docker-registry", "mine", "--docker-server="+r.Host, "--docker-username=me", "--docker-password=s3cret")
	s.apply(mounts("with", "IfNotPresent", "  imagePullSecrets: [{name: mine}]\n"))
	s.ready("with", "never")
	s.event("with", "Pulled", `Successfully pulled image "`+image+`" in `)
	contains(t, "volume", s.kubectl("exec", "with", "--", "ls", "/data"), "copier")
	s.apply(mounts("second", "IfNotPresent", ""))
	s.ready("second")
	s.event("second", "Pulled", `Container image "`+image+`" already present on machine`)
}
