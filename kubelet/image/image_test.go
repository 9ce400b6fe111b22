package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/kubelet/critest"
)

type secrets map[string]*v1.Secret

func (s secrets) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if secret := s[name]; secret != nil {
		return secret, nil
	}
	return nil, fmt.Errorf("secret %s not found", name)
}

type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) record(kind, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, kind+" "+reason+" "+message)
}

func podOf(image string, policy v1.PullPolicy) (*v1.Pod, *v1.Container) {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
	return p, &v1.Container{Name: "c", Image: image, ImagePullPolicy: policy}
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		name, image string
		policy      v1.PullPolicy
		pulls       int
		reason      string // of the error
		note        string // the last
	}{
		{"present", "here:1", v1.PullIfNotPresent, 0, "", `Normal Pulled Container image "here:1" already present on machine and can be accessed by the pod`},
		{"absent", "there:1", v1.PullIfNotPresent, 1, "", `Normal Pulled Successfully pulled image "there:1" in 0s (0s including waiting). Image size: 42 bytes.`},
		{"always", "here:1", v1.PullAlways, 1, "", `Normal Pulled Successfully pulled image "here:1"`},
		{"never", "there:1", v1.PullNever, 0, "ErrImageNeverPull", `Warning ErrImageNeverPull Container image "there:1" is not present with pull policy of Never`},
		{"invalid", "Not/Valid", v1.PullIfNotPresent, 0, "InvalidImageName", `Warning InspectFailed Failed to apply default image tag "Not/Valid": couldn't parse image name "Not/Valid"`},
		{"no tag", "there", v1.PullIfNotPresent, 1, "", `Normal Pulled Successfully pulled image "there"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			images, n := critest.NewImages("here:1"), &notes{}
			now := time.Now()
			p := New(Config{Images: images, Secrets: secrets{}, Now: func() time.Time { return now }})
			spec, container := podOf(c.image, c.policy)
			got, err := p.Ensure(t.Context(), spec, container.Image, container.ImagePullPolicy, nil, n.record)
			reason := ""
			var e *Error
			if errors.As(err, &e) {
				reason = e.Reason
			}
			if reason != c.reason || (err == nil) != (got != nil) {
				t.Errorf("got %+v, %v; want reason %q", got, err, c.reason)
			}
			if len(images.Pulls()) != c.pulls || !strings.HasPrefix(n.list[len(n.list)-1], c.note) {
				t.Errorf("pulls %v, notes %q", images.Pulls(), n.list)
			}
		})
	}
}

// TestBackOff: 10 s, 20 s, ... 300 s between tries of one Pod, none for another.
func TestBackOff(t *testing.T) {
	images, n, now := critest.NewImages(), &notes{}, time.Now()
	images.Break("x:1", errors.New("no such host"))
	p := New(Config{Images: images, Secrets: secrets{}, Now: func() time.Time { return now }})
	spec, c := podOf("x:1", v1.PullIfNotPresent)
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		var e *Error
		if _, err := p.Ensure(t.Context(), spec, c.Image, c.ImagePullPolicy, nil, n.record); !errors.As(err, &e) || e.Reason != "ErrImagePull" || e.Message != "no such host" {
			t.Fatalf("pull: %v", err)
		}
		if got := e.Retry.Sub(now); got != want*time.Second {
			t.Fatalf("retry after %v, want %v", got, want*time.Second)
		}
		if _, err := p.Ensure(t.Context(), spec, c.Image, c.ImagePullPolicy, nil, n.record); !errors.As(err, &e) || e.Reason != "ImagePullBackOff" {
			t.Fatalf("pull in back-off: %v", err)
		}
		now = now.Add(want * time.Second)
	}
	other := spec.DeepCopy()
	other.UID = "other"
	images.Break("x:1", nil)
	if _, err := p.Ensure(t.Context(), other, c.Image, c.ImagePullPolicy, nil, n.record); err != nil {
		t.Error(err)
	}
}

// TestShared: many Pods that want one image cost one pull; the pull survives
// the end of the Pod that began it.
func TestShared(t *testing.T) {
	images, n := critest.NewImages(), &notes{}
	images.Hold = make(chan struct{})
	p := New(Config{Images: images, Secrets: secrets{}})
	spec, c := podOf("x:1", v1.PullIfNotPresent)
	first, cancel := context.WithCancel(t.Context())
	led := make(chan error, 1)
	go func() {
		_, err := p.Ensure(first, spec, c.Image, c.ImagePullPolicy, nil, n.record)
		led <- err
	}()
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() { _, errs[i] = p.Ensure(t.Context(), spec, c.Image, c.ImagePullPolicy, nil, n.record) })
	}
	cancel()
	if err := <-led; err == nil {
		t.Error("a cancelled pull succeeded")
	}
	close(images.Hold)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if pulls := images.Pulls(); len(pulls) > 3 {
		t.Errorf("%d pulls", len(pulls))
	}
}

func TestKeyring(t *testing.T) {
	auth := func(user string) string { return base64.StdEncoding.EncodeToString([]byte(user + ":secret")) }
	config := fmt.Sprintf(`{"auths": {
		"registry.example.com": {"auth": %q},
		"https://registry.example.com/v1/team": {"username": "team", "password": "p"},
		"*.wild.example.com:5000": {"auth": %q},
		"https://index.docker.io/v1/": {"auth": %q}}}`, auth("top"), auth("wild"), auth("hub"))
	k := &Keyring{}
	if err := k.AddSecret(&v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(config)}}); err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"registry.example.com/team/app:1":   "team top",
		"registry.example.com/other/app:1":  "top",
		"a.wild.example.com:5000/app":       "wild",
		"a.wild.example.com/app":            "",
		"a.b.wild.example.com:5000/app":     "",
		"busybox":                           "hub",
		"evil.example.com/registry.example": "",
		"registry.example.com.evil.com/app": "",
	} {
		var users []string
		for _, a := range k.Lookup(image) {
			users = append(users, a.Username)
		}
		if got := strings.Join(users, " "); got != want {
			t.Errorf("credentials for %s: %q, want %q", image, got, want)
		}
	}
	if err := k.AddSecret(&v1.Secret{Type: v1.SecretTypeOpaque}); err == nil {
		t.Error("an opaque secret was taken")
	}
}
