// Package image brings container images to the node when a container needs
// them: pull policy, credentials, back-off, and pulls shared by all who wait
// for the same image.
package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/metrics"
)

// Kubernetes' pull back-off: 10 s doubling to 5 min, forgotten after twice that.
const (
	backOffInitial = 10 * time.Second
	backOffMax     = 300 * time.Second
)

// Recorder records Kubernetes Events of one container.
type Recorder func(kind, reason, message string)

// Secrets reads a Pod's imagePullSecrets.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Error is why a container's image is not there. Reason is the container's
// waiting reason; Retry, if not zero, is when trying again makes sense.
type Error struct {
	Reason, Message string
	Retry           time.Time
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Image is an image that is present.
type Image struct {
	Ref  string // what CRI calls it
	UID  *int64 // the user that it asks for, if numeric
	User string // its name otherwise
}

// Config is what a Puller needs.
type Config struct {
	Images  internalapi.ImageManagerService
	Secrets Secrets
	// Parallel is how many pulls run at once; 0 means no limit.
	Parallel int
	Now      func() time.Time // nil means time.Now
	Metrics  *metrics.Set     // optional
}

// Puller ensures that images are present.
type Puller struct {
	cfg   Config
	slots chan struct{} // nil: no limit

	mu       sync.Mutex
	pulls    map[string]*pull   // by image and credentials
	backOffs map[string]backOff // by Pod UID and image
}

type pull struct {
	done  chan struct{}
	ref   string
	err   error
	began time.Time // when it got its slot
}

type backOff struct {
	delay   time.Duration
	updated time.Time
}

// New makes a Puller.
func New(cfg Config) *Puller {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Puller{cfg: cfg, pulls: map[string]*pull{}, backOffs: map[string]backOff{}}
	if cfg.Parallel > 0 {
		p.slots = make(chan struct{}, cfg.Parallel)
	}
	return p
}

// Name is an image name with :latest when it has neither tag nor digest.
func Name(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

// Ensure returns an image of a Pod, of a container or of a volume, pulled if
// its policy says so. All its errors are *Error.
func (p *Puller) Ensure(ctx context.Context, pod *v1.Pod, image string, policy v1.PullPolicy, sandbox *runtimeapi.PodSandboxConfig, record Recorder) (*Image, error) {
	name, err := Name(image)
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: %v", image, err)
		record(v1.EventTypeWarning, "InspectFailed", msg)
		return nil, &Error{Reason: "InvalidImageName", Message: msg}
	}
	spec := &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: image, Annotations: pod.Annotations}
	present, err := p.status(ctx, spec)
	if err != nil {
		msg := fmt.Sprintf("Failed to inspect image %q: %v", image, err)
		record(v1.EventTypeWarning, "InspectFailed", msg)
		return nil, &Error{Reason: "ImageInspectError", Message: msg}
	}
	switch {
	case present != nil && policy != v1.PullAlways:
		record(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", image))
		return toImage(present), nil
	case policy == v1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", image)
		record(v1.EventTypeWarning, "ErrImageNeverPull", msg)
		return nil, &Error{Reason: "ErrImageNeverPull", Message: msg}
	}
	return p.pull(ctx, pod, spec, sandbox, record)
}

func (p *Puller) status(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	resp, err := p.cfg.Images.ImageStatus(ctx, spec, false)
	if err != nil {
		return nil, err
	}
	if resp == nil || resp.Image == nil || resp.Image.Id == "" {
		return nil, nil
	}
	return resp.Image, nil
}

func toImage(i *runtimeapi.Image) *Image {
	out := &Image{Ref: i.Id, User: i.Username}
	if i.Uid != nil {
		uid := i.Uid.Value
		out.UID = &uid
	} else if i.Username == "" {
		root := int64(0)
		out.UID = &root
	}
	return out
}

// pull pulls, unless this Pod's last pull of the image failed a moment ago.
func (p *Puller) pull(ctx context.Context, pod *v1.Pod, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig, record Recorder) (*Image, error) {
	key := string(pod.UID) + "_" + spec.UserSpecifiedImage
	if until := p.until(key); until.After(p.cfg.Now()) {
		msg := fmt.Sprintf("Back-off pulling image %q", spec.UserSpecifiedImage)
		record(v1.EventTypeNormal, "BackOff", msg)
		return nil, &Error{Reason: "ImagePullBackOff", Message: msg, Retry: until}
	}
	auths := p.auths(ctx, pod, spec.Image, record)
	record(v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", spec.UserSpecifiedImage))
	asked := p.cfg.Now()
	ref, began, err := p.shared(ctx, spec, auths, sandbox)
	if err != nil {
		if ctx.Err() != nil { // nobody wants it any more: that is no failure to tell of
			return nil, &Error{Reason: "ErrImagePull", Message: err.Error()}
		}
		record(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", spec.UserSpecifiedImage, err))
		reason, msg := "ErrImagePull", err.Error()
		if errors.Is(err, errUnavailable) {
			reason, msg = "RegistryUnavailable", fmt.Sprintf("image pull failed for %s because the registry is unavailable.", spec.UserSpecifiedImage)
		}
		return nil, &Error{Reason: reason, Message: msg, Retry: p.failed(key)}
	}
	p.forget(key)
	image, err := p.status(ctx, &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: spec.UserSpecifiedImage})
	if err == nil && image == nil {
		image, err = p.status(ctx, spec)
	}
	if err != nil || image == nil {
		return nil, &Error{Reason: "ImageInspectError", Message: fmt.Sprintf("Failed to inspect image %q: %v", spec.UserSpecifiedImage, err)}
	}
	now := p.cfg.Now()
	if began.Before(asked) {
		began = asked
	}
	record(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		spec.UserSpecifiedImage, now.Sub(began).Truncate(time.Millisecond), now.Sub(asked).Truncate(time.Millisecond), image.Size))
	p.cfg.Metrics.Pulled(now.Sub(began), image.Size)
	out := toImage(image)
	out.Ref = ref
	return out, nil
}

var errUnavailable = errors.New("RegistryUnavailable")

// shared joins a pull of the same image with the same credentials, or starts
// one. A pull goes on as long as anybody waits for it.
func (p *Puller) shared(ctx context.Context, spec *runtimeapi.ImageSpec, auths []*runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, time.Time, error) {
	key := spec.Image
	for _, a := range auths {
		key += "\x00" + a.Username + "\x00" + a.Password + "\x00" + a.Auth + "\x00" + a.IdentityToken + "\x00" + a.RegistryToken
	}
	for {
		p.mu.Lock()
		running := p.pulls[key]
		if running == nil {
			running = &pull{done: make(chan struct{})}
			p.pulls[key] = running
			p.mu.Unlock()
			p.run(ctx, running, spec, auths, sandbox)
			p.mu.Lock()
			delete(p.pulls, key)
			p.mu.Unlock()
			close(running.done)
			return running.ref, running.began, running.err
		}
		p.mu.Unlock()
		select {
		case <-running.done:
		case <-ctx.Done():
			return "", time.Time{}, ctx.Err()
		}
		// Whoever led the pull may have given up because its Pod ended.
		if running.err == nil || !errors.Is(running.err, context.Canceled) {
			return running.ref, running.began, running.err
		}
	}
}

func (p *Puller) run(ctx context.Context, r *pull, spec *runtimeapi.ImageSpec, auths []*runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) {
	if p.slots != nil {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done():
			r.err = ctx.Err()
			return
		}
	}
	r.began = p.cfg.Now()
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, a := range auths {
		ref, err := p.cfg.Images.PullImage(ctx, spec, a, sandbox)
		if err == nil {
			r.ref = ref
			return
		}
		if ctx.Err() != nil {
			r.err = ctx.Err()
			return
		}
		errs = append(errs, err)
		if strings.Contains(err.Error(), errUnavailable.Error()) { // CRI's error is text
			r.err = errUnavailable
			return
		}
	}
	r.err = errs[0]
	if len(errs) > 1 {
		r.err = errors.Join(errs...)
	}
}

// auths are the credentials that fit the image, best first. Secrets that cannot be had are told of and done without: the
// image may need none.
func (p *Puller) auths(ctx context.Context, pod *v1.Pod, image string, record Recorder) []*runtimeapi.AuthConfig {
	var ring Keyring
	var missing []string
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := p.cfg.Secrets.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
		} else {
			err = ring.AddSecret(secret)
		}
		if err != nil {
			klog.FromContext(ctx).Info("Image pull secret cannot be used", "pod", klog.KObj(pod), "secret", ref.Name, "err", err)
		}
	}
	if len(missing) > 0 {
		record(v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	return ring.Lookup(image)
}

func (p *Puller) until(key string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.backOffs[key]
	if !ok || p.cfg.Now().Sub(b.updated) > 2*backOffMax {
		return time.Time{}
	}
	return b.updated.Add(b.delay)
}

func (p *Puller) failed(key string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	for k, b := range p.backOffs { // forget what is over; there are few
		if now.Sub(b.updated) > 2*backOffMax {
			delete(p.backOffs, k)
		}
	}
	b, ok := p.backOffs[key]
	if ok {
		b.delay = min(2*b.delay, backOffMax)
	} else {
		b.delay = backOffInitial
	}
	b.updated = now
	p.backOffs[key] = b
	return now.Add(b.delay)
}

func (p *Puller) forget(key string) {
	p.mu.Lock()
	delete(p.backOffs, key)
	p.mu.Unlock()
}
