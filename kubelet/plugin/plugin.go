// Package plugin finds the programs that extend the kubelet: each makes a socket in a directory of the kubelet's, at which it
// says what it is (the gRPC service pluginregistration.v1.Registration). Such a program is usually a sidecar in the Pod of a
// driver, and the socket is all that the kubelet knows of it: the plugin is there as long as the socket is.
//
// The directory is watched by inotify, with the directories in it. Nothing is asked again once a plugin is registered.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// answer is how long a plugin may take to answer.
const answer = 10 * time.Second

// Plugin is one that has said what it is. The text is its own: nothing in it can be relied on.
type Plugin struct {
	// Socket is where it registers, Endpoint where it serves; both absolute.
	Socket, Endpoint string
	Name             string
	Versions         []string
}

// Handler is what plugins of one type are registered with.
type Handler interface {
	// Register takes the plugin into use, or says why not. The plugin is told, and tried again later.
	Register(ctx context.Context, p Plugin) error
	// Deregister says that a plugin that was registered has gone. The next one at its socket waits for that to end.
	Deregister(ctx context.Context, p Plugin)
}

// Watcher registers plugins.
type Watcher struct {
	dir      string
	handlers map[string]Handler

	watch   *fsnotify.Watcher
	plugins map[string]*registration // by socket; of Run alone
	work    sync.WaitGroup
}

// registration is a socket that a plugin may be behind.
type registration struct {
	trying context.Context // ends when the socket goes, or the kubelet stops
	gone   context.CancelFunc
	ended  chan struct{} // closed when nothing is done with it any more
}

// New makes a Watcher of a directory for the types of plugins that there are handlers for.
func New(dir string, handlers map[string]Handler) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, plugins: map[string]*registration{}}
}

// Run registers the plugins in the directory, which is made, until ctx ends. Plugins stay registered then.
func (w *Watcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.work.Wait()
	defer cancel()
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return fmt.Errorf("make directory of plugins: %w", err)
	}
	var err error
	if w.watch, err = fsnotify.NewWatcher(); err != nil {
		return fmt.Errorf("watch plugins in %s: %w", w.dir, err)
	}
	defer w.watch.Close()
	if err := w.enter(ctx, w.dir); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.watch.Events:
			w.happened(ctx, e)
		case err := <-w.watch.Errors:
			klog.FromContext(ctx).Error(err, "Events of plugins were lost; looking at all of them", "dir", w.dir)
			if err := w.lookAgain(ctx); err != nil {
				return err
			}
		}
	}
}

// happened takes in an event of the file system.
func (w *Watcher) happened(ctx context.Context, e fsnotify.Event) {
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		w.removed(e.Name)
		return
	}
	if !e.Has(fsnotify.Create) {
		return
	}
	if err := w.found(ctx, e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "A plugin cannot be looked at", "path", e.Name)
	}
}

// lookAgain brings the registrations in step with what is there.
func (w *Watcher) lookAgain(ctx context.Context) error {
	for socket := range w.plugins {
		if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
			w.removed(socket)
		}
	}
	return w.enter(ctx, w.dir)
}

// enter watches a directory and takes in what is in it already.
func (w *Watcher) enter(ctx context.Context, dir string) error {
	if err := w.watch.Add(dir); err != nil {
		return fmt.Errorf("watch plugins in %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list plugins: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if w.plugins[path] != nil {
			continue
		}
		if err := w.found(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "A plugin cannot be looked at", "path", path)
		}
	}
	return nil
}

// found takes in a file: a socket is a plugin's. Links are not followed, and hidden files are for plugins to use.
func (w *Watcher) found(ctx context.Context, path string) error {
	if strings.HasPrefix(filepath.Base(path), ".") {
		return nil
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return w.enter(ctx, path)
	case info.Mode().Type() != fs.ModeSocket:
		return nil
	}
	before := w.removed(path) // where it is a new socket in the place of an old one
	r := &registration{ended: make(chan struct{})}
	r.trying, r.gone = context.WithCancel(ctx)
	w.plugins[path] = r
	w.work.Go(func() {
		defer close(r.ended)
		if before != nil {
			<-before.ended
		}
		w.keep(ctx, r, path)
	})
	return nil
}

// removed ends the plugin of a socket and returns what ends then, nil for nothing. Those in a directory are told of one by one
// before it.
func (w *Watcher) removed(path string) *registration {
	r := w.plugins[path]
	if r != nil {
		delete(w.plugins, path)
		r.gone()
	}
	return r
}

// keep registers the plugin behind a socket, and has it registered until the socket goes. When the kubelet stops before, it
// stays registered: the next start finds it.
func (w *Watcher) keep(ctx context.Context, r *registration, socket string) {
	var p Plugin
	var handler Handler
	if !Again(r.trying, "Plugin is not registered, will retry", func() (_ <-chan struct{}, err error) {
		p, handler, err = w.register(ctx, r.trying, socket)
		return nil, err
	}, "socket", socket) {
		return
	}
	klog.FromContext(ctx).Info("Registered plugin", "name", p.Name, "endpoint", p.Endpoint, "socket", socket)
	<-r.trying.Done()
	if ctx.Err() == nil {
		handler.Deregister(ctx, p)
	}
}

// register asks the plugin what it is, hands it to who handles such plugins, and tells it what came of that. It ends with ctx, and
// what has to be undone is undone within run.
func (w *Watcher) register(run, ctx context.Context, socket string) (Plugin, Handler, error) {
	conn, err := Dial(socket)
	if err != nil {
		return Plugin{}, nil, err
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)
	asking, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	info, err := client.GetInfo(asking, &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return Plugin{}, nil, fmt.Errorf("ask plugin at %s what it is: %w", socket, err)
	}
	p := Plugin{Socket: socket, Endpoint: info.Endpoint, Name: info.Name, Versions: info.SupportedVersions}
	if p.Endpoint == "" {
		p.Endpoint = socket
	}
	handler := w.handlers[info.Type]
	switch {
	case handler == nil:
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.Type, socket)
	case !filepath.IsAbs(p.Endpoint):
		err = fmt.Errorf("endpoint %q of plugin %q is not an absolute path", p.Endpoint, p.Name)
	default:
		err = handler.Register(ctx, p)
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = fmt.Sprintf("RegisterPlugin error -- plugin registration failed with err: %v", err)
	}
	telling, cancelTelling := context.WithTimeout(ctx, answer)
	defer cancelTelling()
	if _, told := client.NotifyRegistrationStatus(telling, status); told != nil {
		told = fmt.Errorf("tell plugin at %s of its registration: %w", socket, told)
		if err == nil && run.Err() == nil {
			handler.Deregister(run, p)
		}
		err = errors.Join(err, told)
	}
	return p, handler, err
}
