package static

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// Format is how Pods are written down.
type Format interface {
	// Decode reads one Pod as it is written. warning names what in it is not known, which is no error.
	Decode(data []byte) (p *v1.Pod, warning, err error)
	// Complete fills in what the user has left out.
	Complete(p *v1.Pod)
	// Validate says why a complete Pod cannot run without the API, by field; nil if it can.
	Validate(p *v1.Pod) error
}

// Runner runs the Pods. Pods that it is given are shared: read only.
type Runner interface {
	// Declare has the Pod run, as soon as none of its name is left that was declared before.
	Declare(p *v1.Pod)
	// Withdraw ends a Pod that was declared, within its grace.
	Withdraw(p *v1.Pod)
}

// SourceConfig is what a Source is made from; all of it is required.
type SourceConfig struct {
	// Path is the directory that has the files, one Pod each, or a file; absolute. Hidden files are none of them.
	Path     string
	NodeName string
	Format   Format
}

// Source is the files. It is for one goroutine.
type Source struct {
	cfg SourceConfig
	now func() time.Time

	// pods are what the files said last that made sense. A file that makes none any more leaves its Pod as it was: it may be
	// half written.
	pods map[string]*v1.Pod
	// told are the Pods that somebody runs.
	told map[types.NamespacedName]*v1.Pod
	// trouble is what was last logged of a file.
	trouble map[string]string
}

// NewSource makes a Source, which reads nothing yet.
func NewSource(cfg SourceConfig) *Source {
	cfg.Path = filepath.Clean(cfg.Path)
	return &Source{cfg: cfg, now: time.Now, pods: map[string]*v1.Pod{}, told: map[types.NamespacedName]*v1.Pod{}, trouble: map[string]string{}}
}

// Read returns the Pods that there are now, which whoever asks runs. It is called before Run.
func (s *Source) Read(ctx context.Context) []*v1.Pod {
	s.readAll(ctx)
	s.told = s.desired(ctx)
	return slices.Collect(maps.Values(s.told))
}

// Run tells r of all that changes after Read, until ctx ends.
func (s *Source) Run(ctx context.Context, r Runner) error {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch static pods in %s: %w", s.cfg.Path, err)
	}
	defer watch.Close()
	// The directory may be made, or another put in its place, at any time.
	if err := watch.Add(filepath.Dir(s.cfg.Path)); err != nil {
		return fmt.Errorf("watch static pods in %s: %w; make the directory, or name another with --pod-manifest-path", s.cfg.Path, err)
	}
	s.again(ctx, watch)
	for {
		s.tell(ctx, r)
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			s.happened(ctx, watch, e)
		case err := <-watch.Errors:
			klog.FromContext(ctx).Error(err, "Changes of static pods may have been missed; reading all files", "path", s.cfg.Path)
			s.again(ctx, watch)
		}
	}
}

// happened takes in an event of the file system. A file that goes and comes is two events, and so its Pod ends and another one
// runs, though it says the same.
func (s *Source) happened(ctx context.Context, watch *fsnotify.Watcher, e fsnotify.Event) {
	gone := e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)
	switch {
	case e.Name == s.cfg.Path:
		s.again(ctx, watch)
	case filepath.Dir(e.Name) != s.cfg.Path || hidden(e.Name):
	case gone:
		s.forget(e.Name)
	default:
		s.readOne(ctx, e.Name)
	}
}

// again looks at everything, and watches the directory that is there now.
func (s *Source) again(ctx context.Context, watch *fsnotify.Watcher) {
	_ = watch.Remove(s.cfg.Path) // the one that was there before; an error says that none was
	if info, err := os.Stat(s.cfg.Path); err == nil && info.IsDir() {
		if err := watch.Add(s.cfg.Path); err != nil {
			klog.FromContext(ctx).Error(err, "Static pods are not followed", "path", s.cfg.Path)
		}
	}
	s.readAll(ctx)
}

// readAll reads all files. Where there is no directory there are no Pods.
func (s *Source) readAll(ctx context.Context) {
	paths, err := s.list()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		klog.FromContext(ctx).Info("There is no directory of static pods yet", "path", s.cfg.Path)
	case err != nil:
		klog.FromContext(ctx).Error(err, "Static pods cannot be read; those that run go on", "path", s.cfg.Path)
		return
	}
	for path := range s.pods {
		if !slices.Contains(paths, path) {
			s.forget(path)
		}
	}
	for _, path := range paths {
		s.readOne(ctx, path)
	}
}

// list returns the files: those of the directory that are not hidden, or the one.
func (s *Source) list() ([]string, error) {
	info, err := os.Stat(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{s.cfg.Path}, nil
	}
	entries, err := os.ReadDir(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if !hidden(e.Name()) {
			paths = append(paths, filepath.Join(s.cfg.Path, e.Name()))
		}
	}
	return paths, nil
}

func hidden(path string) bool { return strings.HasPrefix(filepath.Base(path), ".") }

func (s *Source) forget(path string) {
	delete(s.pods, path)
	delete(s.trouble, path)
}

// readOne reads one file.
func (s *Source) readOne(ctx context.Context, path string) {
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.forget(path)
		return
	case errors.Is(err, errEmpty):
		return
	case err != nil:
		s.complain(ctx, path, "A static pod's file cannot be read", err)
		return
	}
	p, warning, err := s.parse(path, data)
	if err != nil {
		s.complain(ctx, path, "A file is not taken for a static pod", err)
		return
	}
	if old := s.pods[path]; old != nil && old.UID == p.UID && old.Namespace == p.Namespace && old.Name == p.Name {
		return
	}
	s.pods[path] = p
	if delete(s.trouble, path); warning != nil {
		s.complain(ctx, path, "A static pod's file has fields that are not known", warning)
	}
}

// complain logs what is wrong with a file, once.
func (s *Source) complain(ctx context.Context, path, what string, err error) {
	if s.trouble[path] != what+err.Error() {
		s.trouble[path] = what + err.Error()
		klog.FromContext(ctx).Error(err, what, "file", path)
	}
}

// desired are the Pods that the files say. Of several with one name that of the first file counts.
func (s *Source) desired(ctx context.Context) map[types.NamespacedName]*v1.Pod {
	all := map[types.NamespacedName]*v1.Pod{}
	from := map[types.NamespacedName]string{}
	for _, path := range slices.Sorted(maps.Keys(s.pods)) {
		p := s.pods[path]
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		if first, taken := from[name]; taken {
			s.complain(ctx, path, "A static pod is not run", fmt.Errorf("%s has a pod %s too: rename one of them, or remove a file", first, name))
			continue
		}
		all[name], from[name] = p, path
	}
	return all
}

// tell has r run what the files say.
func (s *Source) tell(ctx context.Context, r Runner) {
	want := s.desired(ctx)
	for name, p := range s.told {
		if now := want[name]; now == nil || now.UID != p.UID {
			r.Withdraw(p)
		}
	}
	for name, p := range want {
		if old := s.told[name]; old == nil || old.UID != p.UID {
			klog.FromContext(ctx).Info("Static pod is to run", "pod", klog.KObj(p), "podUID", p.UID)
			r.Declare(p)
		}
	}
	s.told = want
}
