package localpath_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/localpath"
	kept "github.com/peapod/peapod/kubelet/localpath"
)

// patience ends a wait for what is not going to happen.
const patience = 60 * time.Second

type world struct {
	t      *testing.T
	client kubernetes.Interface
	dir    string
	events *record.FakeRecorder
	keeper *kept.Keeper
	stop   func()
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: servertest.Start(t, nil).Client(t), dir: filepath.Join(t.TempDir(), "data", "volumes"), events: record.NewFakeRecorder(10)}
	w.run()
	return w
}

// run runs a keeper, as after a restart.
func (w *world) run() {
	w.keeper = kept.New(kept.Config{Client: w.client, NodeName: "n1", Dir: w.dir, Recorder: w.events})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.keeper.Run(ctx); err != nil {
			w.t.Errorf("keeper ended with: %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(w.stop)
}

// volume makes a volume as the provisioner does.
func (w *world) volume(name, node string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	w.t.Helper()
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{"example.com/other", localpath.Finalizer},
			Labels: map[string]string{localpath.NodeLabel: node}, Annotations: map[string]string{storage.AnnDynamicallyProvisioned: localpath.Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: filepath.Join(w.dir, name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}}
	if change != nil {
		change(v)
	}
	v, err := w.client.CoreV1().PersistentVolumes().Create(w.t.Context(), v, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) get(name string) *corev1.PersistentVolume {
	w.t.Helper()
	v, err := w.client.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// provide makes the volume's directory and returns its path.
func (w *world) provide(name string) string {
	w.t.Helper()
	if err := w.keeper.Provide(w.t.Context(), w.get(name)); err != nil {
		w.t.Fatal(err)
	}
	return filepath.Join(w.dir, name)
}

func (w *world) delete(name string) {
	w.t.Helper()
	if err := w.client.CoreV1().PersistentVolumes().Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// released waits until only the other finalizer holds the volume.
func (w *world) released(name string) {
	w.t.Helper()
	w.await(name, func(v *corev1.PersistentVolume) bool {
		return len(v.Finalizers) == 1 && v.Finalizers[0] == "example.com/other"
	})
}

func (w *world) await(name string, ok func(*corev1.PersistentVolume) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	events, err := w.client.CoreV1().PersistentVolumes().Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil {
		w.t.Fatal(err)
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		if v, isVolume := e.Object.(*corev1.PersistentVolume); isVolume && ok(v) {
			return
		}
	}
	w.t.Fatalf("volume %s did not become what was awaited", name)
}

// says waits for an event.
func (w *world) says(text string) {
	w.t.Helper()
	select {
	case e := <-w.events.Events:
		if !strings.Contains(e, text) {
			w.t.Errorf("event says %q, want %q in it", e, text)
		}
	case <-time.After(patience):
		w.t.Fatalf("no event that says %q", text)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestADirectoryIsMadeAndRemoved(t *testing.T) {
	old := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(old) })
	w := start(t)
	w.volume("pvc-1", "n1", nil)
	path := w.provide("pvc-1")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeDir|0o777 {
		t.Fatalf("made %v, %v", info, err)
	}
	if w.get("pvc-1").Annotations[localpath.MadeAnnotation] != "true" {
		t.Error("the volume does not say that its directory was made")
	}
	if err := os.MkdirAll(filepath.Join(path, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.delete("pvc-1")
	w.released("pvc-1")
	if exists(t, path) {
		t.Error("the directory is left")
	}
}

// A directory that has vanished had data in it: an empty one would hide that.
func TestALostDirectoryIsNotReplaced(t *testing.T) {
	w := start(t)
	w.volume("pvc-1", "n1", nil)
	path := w.provide("pvc-1")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.provide("pvc-1")
	if exists(t, path) {
		t.Error("an empty directory took the place of one with data")
	}
	w.delete("pvc-1") // there is nothing to remove
	w.released("pvc-1")
}

// The keeper may stop between the directory and the note of it.
func TestAHalfMadeDirectoryIsTaken(t *testing.T) {
	w := start(t)
	w.volume("pvc-1", "n1", nil)
	if err := os.MkdirAll(filepath.Join(w.dir, "pvc-1"), 0o777); err != nil {
		t.Fatal(err)
	}
	w.provide("pvc-1")
	if w.get("pvc-1").Annotations[localpath.MadeAnnotation] != "true" {
		t.Error("the volume does not say that its directory was made")
	}
}

func TestWhatIsDeletedMeanwhileIsRemovedAtTheStart(t *testing.T) {
	w := start(t)
	w.volume("pvc-1", "n1", nil)
	path := w.provide("pvc-1")
	w.stop()
	w.delete("pvc-1")
	if !exists(t, path) {
		t.Fatal("who stands still removes nothing")
	}
	w.run()
	w.released("pvc-1")
	if exists(t, path) {
		t.Error("the directory is left")
	}
}

// Nothing goes while a claim has the volume, or its user wants to keep the data, or it is another node's or provisioner's.
func TestWhatIsNotToBeRemovedStays(t *testing.T) {
	w := start(t)
	for name, v := range map[string]struct {
		node   string
		change func(*corev1.PersistentVolume)
	}{
		"bound": {"n1", nil},
		"retained": {"n1", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}},
		"theirs": {"n2", nil},
		"foreign": {"n1", func(v *corev1.PersistentVolume) {
			v.Annotations[storage.AnnDynamicallyProvisioned] = "example.com/disks"
		}},
	} {
		w.volume(name, v.node, v.change)
		if err := os.MkdirAll(filepath.Join(w.dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	bound := w.get("bound")
	bound.Status.Phase = corev1.VolumeBound
	if _, err := w.client.CoreV1().PersistentVolumes().UpdateStatus(t.Context(), bound, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bound", "retained", "theirs", "foreign"} {
		w.delete(name)
	}
	// The keeper comes to it after the others.
	w.volume("last", "n1", nil)
	w.provide("last")
	w.delete("last")
	w.released("last")
	for _, name := range []string{"bound", "retained", "theirs", "foreign"} {
		if len(w.get(name).Finalizers) != 2 || !exists(t, filepath.Join(w.dir, name)) {
			t.Errorf("%s was let go", name)
		}
	}
}

// Attack: whoever may write a volume points it elsewhere, or a Pod leaves links behind, for root to remove what they lead to.
func TestNothingElseIsRemoved(t *testing.T) {
	w := start(t)
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.volume("elsewhere", "n1", func(v *corev1.PersistentVolume) { v.Spec.Local.Path = filepath.Dir(precious) })
	w.provide("elsewhere") // does nothing
	if exists(t, filepath.Join(w.dir, "elsewhere")) {
		t.Error("a directory was made for a volume that is elsewhere")
	}
	w.delete("elsewhere")
	w.says("remove the directory by hand, then the finalizer " + localpath.Finalizer)
	w.volume("links", "n1", nil)
	path := w.provide("links")
	for link, target := range map[string]string{"file": precious, "dir": filepath.Dir(precious)} {
		if err := os.Symlink(target, filepath.Join(path, link)); err != nil {
			t.Fatal(err)
		}
	}
	w.delete("links")
	w.released("links")
	w.volume("swapped", "n1", nil)
	if err := os.Symlink(filepath.Dir(precious), filepath.Join(w.dir, "swapped")); err != nil {
		t.Fatal(err)
	}
	if err := w.keeper.Provide(t.Context(), w.get("swapped")); err == nil || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("a link was taken for a volume's directory: %v", err)
	}
	w.delete("swapped")
	w.released("swapped")
	if !exists(t, precious) {
		t.Error("a file that is no volume's was removed")
	}
}

// Attack: a privileged Pod left something mounted in its volume.
func TestWhatIsMountedThereIsNotRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	w := start(t)
	w.volume("pvc-1", "n1", nil)
	path := w.provide("pvc-1")
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(path, "host")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(host, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmount := sync.OnceFunc(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(unmount)
	w.delete("pvc-1")
	w.says("something is mounted at " + target + ": unmount it")
	unmount()
	w.released("pvc-1")
	if !exists(t, filepath.Join(host, "precious")) {
		t.Error("what was mounted was removed")
	}
}

// A volume of the same name that was made meanwhile is another one.
func TestAnotherVolumeIsNotMarked(t *testing.T) {
	w := start(t)
	old := w.volume("pvc-1", "n1", nil)
	old.UID = types.UID("earlier")
	if err := w.keeper.Provide(t.Context(), old); err == nil || len(w.get("pvc-1").Annotations) != 1 {
		t.Errorf("a volume that is another one now was marked: %v, %v", w.get("pvc-1").Annotations, err)
	}
}
