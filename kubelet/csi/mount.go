package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/internal/csiname"
	"github.com/peapod/peapod/internal/turn"
	"github.com/peapod/peapod/kubelet/pod"
)

// mounting is a volume of a Pod: being published, published, or failed to be. The Plugin's mu guards it, but for what says otherwise.
type mounting struct {
	key    mountKey
	block  bool
	cancel context.CancelFunc
	// done is closed when the driver is through; only then are result and err set.
	done   chan struct{}
	result Published
	err    error
	// told says that the Pod was told of err.
	told bool
	// record is nil while the driver has not been asked. The goroutine that works on the mounting sets it, under mu.
	record *record
	unique v1.UniqueVolumeName // of a persistent volume

	republish clock.Timer
	expansion *expansion // nil while none is asked for
	measured  measured
	// turn has a token while something is done with what is published.
	turn turn.Turn
}

// RepublishEvery is how often a driver that asks for it is asked to publish a volume again.
const RepublishEvery = time.Minute

func (v *Volume) name() string {
	if v.Persistent != nil {
		return v.Persistent.Name
	}
	return v.Named
}

func (v *Volume) driver() string {
	if v.Persistent != nil {
		return v.Persistent.Spec.CSI.Driver
	}
	return v.Inline.Driver
}

// handle is what the driver calls the volume; that of an inline one is made up by the node.
func (v *Volume) handle() string {
	if v.Persistent != nil {
		return v.Persistent.Spec.CSI.VolumeHandle
	}
	return csiname.Inline(string(v.Pod.UID), v.Named)
}

func (v *Volume) block() bool {
	return v.Persistent != nil && v.Persistent.Spec.VolumeMode != nil && *v.Persistent.Spec.VolumeMode == v1.PersistentVolumeBlock
}

func (v *Volume) lifecycle() storagev1.VolumeLifecycleMode {
	if v.Persistent != nil {
		return storagev1.VolumeLifecyclePersistent
	}
	return storagev1.VolumeLifecycleEphemeral
}

// errUnderWay is no failure: the driver is at work.
var errUnderWay = errors.New("volume is being mounted")

// SetUp returns the volume once it is ready for containers. Until then it returns a quiet *pod.RetryError, or another error when the
// driver has failed; it starts the work only with start, and once more after it has told of a failure.
func (p *Plugin) SetUp(v Volume, start bool) (Published, error) {
	if err := p.load(); err != nil {
		return Published{}, err
	}
	key := mountKey{v.Pod.UID, v.name()}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.mounts[key]
	switch {
	case p.ctx.Err() != nil:
		return Published{}, p.ctx.Err()
	case m != nil && !m.ended():
		return Published{}, &pod.RetryError{Err: errUnderWay, Ready: m.done, Quiet: true}
	case m != nil && m.record != nil && (m.record.Driver != v.driver() || m.record.Handle != v.handle()):
		return Published{}, fmt.Errorf("MountVolume.SetUp failed for volume %q : another volume of the pod has its place: %s of driver %s", key.name, m.record.Handle, m.record.Driver)
	case m != nil && m.err == nil:
		p.republishLater(m, v)
		return m.result, nil
	case m != nil && !m.told && start:
		m.told = true
		return Published{}, m.err
	case !start:
		return Published{}, &pod.RetryError{Err: errUnderWay, Quiet: true}
	}
	n := &mounting{key: key, block: v.block(), done: make(chan struct{}), turn: turn.New()}
	if m != nil {
		n.record, n.unique = m.record, m.unique
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(p.ctx)
	p.mounts[key] = n
	p.spawn(func() {
		defer n.cancel()
		err := p.mount(ctx, &v, n)
		p.mu.Lock()
		defer p.mu.Unlock()
		n.result, n.err = Published{Path: p.published(key, n.block).path, Block: n.block}, err
		close(n.done)
	})
	return Published{}, &pod.RetryError{Err: errUnderWay, Ready: n.done, Quiet: true}
}

func (m *mounting) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// mount does all that there is to do for a volume.
func (p *Plugin) mount(ctx context.Context, v *Volume, m *mounting) error {
	step := "MountVolume.SetUp"
	if v.Persistent != nil {
		step = "MountVolume.MountDevice"
	}
	failed := func(err error) error { return fmt.Errorf("%s failed for volume %q : %w", step, v.name(), err) }
	d, news, err := p.driver(v.driver())
	if err != nil {
		return &pod.RetryError{Err: failed(err), Ready: news}
	}
	object, err := p.object(ctx, d.name)
	if err != nil {
		return failed(err)
	}
	if err := supports(object, d.name, v.lifecycle()); err != nil {
		return failed(err)
	}
	if v.Persistent == nil {
		if err := p.publish(ctx, d, object, v, m, "", nil); err != nil {
			return failed(err)
		}
		return nil
	}
	attach := csiname.NeedsAttach(object)
	p.mu.Lock()
	s := p.use(m, d.name, v.handle(), attach)
	p.mu.Unlock()
	var publishContext map[string]string
	if attach {
		if publishContext, err = p.attached(ctx, v, m.unique); err != nil {
			return err
		}
	}
	if err := s.turn.Take(ctx); err != nil {
		return failed(err)
	}
	defer s.turn.Give()
	staging, err := p.stage(ctx, d, v, s, publishContext)
	if err != nil {
		return failed(err)
	}
	step = "MountVolume.SetUp"
	if v.block() {
		step = "MapVolume.MapPodDevice"
	}
	if err := p.publish(ctx, d, object, v, m, staging, publishContext); err != nil {
		return failed(err)
	}
	return nil
}

// object returns what the cluster says of a driver, nil for nothing.
func (p *Plugin) object(ctx context.Context, driver string) (*storagev1.CSIDriver, error) {
	object, err := p.cfg.Client.StorageV1().CSIDrivers().Get(ctx, driver, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CSIDriver %s: %w", driver, err)
	}
	return object, nil
}

// publish asks the driver to bring the volume to the Pod.
func (p *Plugin) publish(ctx context.Context, d *driver, object *storagev1.CSIDriver, v *Volume, m *mounting, staging string, publishContext map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := p.publishRequest(ctx, d, object, v, staging, publishContext)
	if err != nil {
		return err
	}
	at, fresh := p.published(m.key, m.block), m.record == nil
	r := &record{SpecName: v.name(), Handle: v.handle(), Driver: d.name, Node: p.cfg.NodeName, Lifecycle: string(v.lifecycle()),
		Republish: flag(object != nil && object.Spec.RequiresRepublish != nil && *object.Spec.RequiresRepublish)}
	if v.Persistent != nil {
		r.Attachment = csiname.Attachment(r.Handle, d.name, p.cfg.NodeName)
		r.Attach = flag(csiname.NeedsAttach(object))
	}
	if m.record != nil {
		r.Boot = m.record.Boot
	}
	p.note(m, r)
	if err := at.save(r); err != nil {
		return err
	}
	request.TargetPath = at.path
	if _, err := d.client.NodePublishVolume(ctx, request); err != nil {
		if fresh && final(err) {
			if err := at.clear(); err == nil {
				p.note(m, nil)
			}
		}
		return err // worded by the driver
	}
	if err := check(Published{at.path, m.block}); err != nil {
		return err
	}
	if err := p.own(ctx, d, object, v, at.path); err != nil {
		return err
	}
	r.Boot = p.boot
	return at.save(r)
}

// check sees that the driver has made what it was asked for. A link in its place could lead a container anywhere.
func check(got Published) error {
	info, err := os.Lstat(got.Path)
	if err != nil {
		return fmt.Errorf("the driver has published nothing: %w", err)
	}
	if want := fs.ModeDevice; got.Block && info.Mode().Type() != want {
		return fmt.Errorf("the driver has published %s, which is not a block device", got.Path)
	}
	if !got.Block && !info.IsDir() {
		return fmt.Errorf("the driver has published %s, which is not a directory", got.Path)
	}
	return nil
}

// note sets the record of a mounting, which others read.
func (p *Plugin) note(m *mounting, r *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.record = r
}

// own gives the volume to the Pod's group where the driver leaves that to the kubelet (fsGroupPolicy).
func (p *Plugin) own(ctx context.Context, d *driver, object *storagev1.CSIDriver, v *Volume, path string) error {
	if v.Own == nil || v.ReadOnly || v.block() {
		return nil
	}
	if delegated, err := d.can(ctx, csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP); delegated || err != nil {
		return err
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if object != nil && object.Spec.FSGroupPolicy != nil {
		policy = *object.Spec.FSGroupPolicy
	}
	switch {
	case policy == storagev1.NoneFSGroupPolicy:
		return nil
	case policy != storagev1.FileFSGroupPolicy && !ownFileSystem(v):
		return nil
	}
	if err := v.Own(path); err != nil {
		return fmt.Errorf("applyFSGroup failed for vol %s: %w", v.handle(), err)
	}
	return nil
}

// ownFileSystem says whether the volume is a file system of this node's alone, as far as its fields tell.
func ownFileSystem(v *Volume) bool {
	if v.Persistent == nil {
		return v.Inline.FSType != nil && *v.Inline.FSType != ""
	}
	if v.Persistent.Spec.CSI.FSType == "" {
		return false
	}
	for _, mode := range v.Persistent.Spec.AccessModes {
		if mode == v1.ReadWriteOnce || mode == v1.ReadWriteOncePod {
			return true
		}
	}
	return false
}

// republishLater has a volume published again when that is due, as long as it is mounted. The caller holds mu.
func (p *Plugin) republishLater(m *mounting, v Volume) {
	if m.record.Republish != yes || m.republish != nil {
		return
	}
	m.republish = p.cfg.Clock.AfterFunc(RepublishEvery, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.mounts[m.key] == m && m.republish != nil {
			p.spawn(func() { p.publishAgain(&v, m) })
		}
	})
}

// stopRepublishing ends what republishLater began. The caller holds mu.
func (m *mounting) stopRepublishing() {
	if m.republish != nil {
		m.republish.Stop()
		m.republish = nil
	}
}

// publishAgain has the driver publish a volume where it is published already: what changes are tokens.
func (p *Plugin) publishAgain(v *Volume, m *mounting) {
	ctx := p.ctx
	if err := m.turn.Take(ctx); err != nil {
		return
	}
	defer m.turn.Give()
	err := func() error {
		p.mu.Lock()
		gone := p.mounts[m.key] != m
		p.mu.Unlock()
		if gone {
			return nil
		}
		d, _, err := p.driver(v.driver())
		if err != nil {
			return err
		}
		object, err := p.object(ctx, d.name)
		if err != nil {
			return err
		}
		staging, publishContext := "", map[string]string(nil)
		if v.Persistent != nil {
			if staging, err = p.stagingPath(ctx, d, v); err != nil {
				return err
			}
			if m.record.Attach == yes {
				if publishContext, err = p.attachment(ctx, v); err != nil {
					return err
				}
			}
		}
		v := *v
		v.Own = nil // it has its owner
		return p.publish(ctx, d, object, &v, m, staging, publishContext)
	}()
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Volume is not published again, will retry", "pod", klog.KObj(v.Pod), "volume", v.name(), "after", RepublishEvery)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.republish != nil { // it was not stopped meanwhile
		m.republish = nil
		p.republishLater(m, *v)
	}
}

func group(v *Volume) string {
	if s := v.Pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return strconv.FormatInt(*s.FSGroup, 10)
	}
	return ""
}
