// Package critest is a container runtime in memory with CRI's semantics:
// sandboxes, containers, exits, events. Tests decide when processes exit and
// which calls fail.
package critest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is the runtime. Methods that it does not have panic.
type Runtime struct {
	internalapi.RuntimeService

	mu         sync.Mutex
	serial     int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	listeners  map[chan *runtimeapi.ContainerEventResponse]bool
	changed    chan struct{} // closed and replaced at every change
	failures   map[string]error
	calls      []string
	execs      map[string]Exec
	// IgnoreTerm makes processes live until they are killed.
	ignoreTerm map[string]bool
	memory     map[string]uint64 // in use, by container name
	noEvents   bool
	brief      map[string]bool // see Brief
}

// Exec answers ExecSync of a command.
type Exec func(container string) (stdout []byte, err error)

type sandbox struct {
	id     string
	config *runtimeapi.PodSandboxConfig
	ready  bool
	at     time.Time
	ip     string
}

type container struct {
	id, sandbox string
	config      *runtimeapi.ContainerConfig
	logDir      string
	state       runtimeapi.ContainerState
	created     time.Time
	started     time.Time
	finished    time.Time
	code        int32
	reason      string
	message     string
	exited      chan struct{}
}

// New makes an empty Runtime.
func New() *Runtime {
	return &Runtime{
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, changed: make(chan struct{}),
		listeners: map[chan *runtimeapi.ContainerEventResponse]bool{}, failures: map[string]error{},
		execs: map[string]Exec{}, ignoreTerm: map[string]bool{}, memory: map[string]uint64{}, brief: map[string]bool{},
	}
}

// Fail makes calls of a method fail from now on; nil ends that.
func (r *Runtime) Fail(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures[method] = err
}

// OnExec sets what running a command (its first word) in a container does.
func (r *Runtime) OnExec(word string, f Exec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.execs[word] = f
}

// IgnoreTerm makes a container's process ignore SIGTERM.
func (r *Runtime) IgnoreTerm(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ignoreTerm[name] = true
}

// Brief has containers of that name exit, with 0, before the call that starts them returns, which it does when its caller gives up.
func (r *Runtime) Brief(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.brief[name] = true
}

// Uses sets how many bytes of memory the container of this name uses.
func (r *Runtime) Uses(name string, bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory[name] = bytes
}

// Calls are the calls that changed something, in order, as "Method name".
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}

// Exit ends the process of the newest running instance of a container.
func (r *Runtime) Exit(name string, code int32, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.config.Metadata.Name == name && c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.exit(c, code, reason)
			return nil
		}
	}
	return fmt.Errorf("exit container %s: does not run", name)
}

// KillSandbox makes the sandboxes of all Pods unready, as a reboot does.
func (r *Runtime) KillSandbox() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		r.stop(s)
	}
}

// Running are the names of running containers, each as often as it runs.
func (r *Runtime) Running() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for _, c := range r.containers {
		if c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
			out[c.config.Metadata.Name]++
		}
	}
	return out
}

// Empty says whether nothing is left.
func (r *Runtime) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes) == 0 && len(r.containers) == 0
}

// Wait returns when ok is true, asking again at every change.
func (r *Runtime) Wait(ctx context.Context, ok func() bool) error {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// did notes a call; the caller holds r.mu.
func (r *Runtime) did(method, name string) error {
	if err := r.failures[method]; err != nil {
		return err
	}
	r.calls = append(r.calls, method+" "+name)
	return nil
}

func (r *Runtime) touch() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Runtime) event(c *container, kind runtimeapi.ContainerEventType) {
	r.touch()
	e := &runtimeapi.ContainerEventResponse{ContainerId: c.id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if s := r.sandboxes[c.sandbox]; s != nil {
		e.PodSandboxStatus = r.sandboxStatus(s)
	}
	for ch := range r.listeners {
		ch <- e
	}
}

func (r *Runtime) exit(c *container, code int32, reason string) {
	if c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.state, c.code, c.reason, c.finished = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason, time.Now()
	close(c.exited)
	r.event(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) stop(s *sandbox) {
	s.ready = false
	for _, c := range r.containers {
		if c.sandbox == s.id {
			r.exit(c, 137, "Error")
		}
	}
	r.event(&container{id: s.id, sandbox: s.id}, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// Version implements CRI.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "critest", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status implements CRI.
func (r *Runtime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{
			{Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}, {Name: "plain", Features: &runtimeapi.RuntimeHandlerFeatures{}},
		},
	}, nil
}

// RuntimeConfig implements CRI.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// WithoutEvents makes GetContainerEvents fail.
func (r *Runtime) WithoutEvents() { r.noEvents = true }

// GetContainerEvents implements CRI.
func (r *Runtime) GetContainerEvents(ctx context.Context, out chan *runtimeapi.ContainerEventResponse, up func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	if r.noEvents {
		return errors.New("unimplemented")
	}
	in := make(chan *runtimeapi.ContainerEventResponse, 4096)
	r.mu.Lock()
	r.listeners[in] = true
	r.mu.Unlock()
	up(nil)
	defer func() {
		r.mu.Lock()
		delete(r.listeners, in)
		r.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-in:
			select {
			case out <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (r *Runtime) id(prefix string) string {
	r.serial++
	return fmt.Sprintf("%s%d", prefix, r.serial)
}

// ExecSync implements CRI.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, error) {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil || c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil, nil, fmt.Errorf("exec in container %s: does not run", id)
	}
	name := c.config.Metadata.Name
	err := r.did("ExecSync", name)
	f := r.execs[cmd[0]]
	r.mu.Unlock()
	if err != nil || f == nil {
		return nil, nil, err
	}
	out, err := f(name)
	return out, nil, err
}

// ReopenContainerLog implements CRI.
func (r *Runtime) ReopenContainerLog(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return fmt.Errorf("reopen log of container %s: not found", id)
	}
	return r.did("ReopenContainerLog", c.config.Metadata.Name)
}

// Configs are the container configurations by name, newest instance.
func (r *Runtime) Configs() map[string]*runtimeapi.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]*runtimeapi.ContainerConfig{}
	for _, c := range r.containers {
		if old := out[c.config.Metadata.Name]; old == nil || old.Metadata.Attempt < c.config.Metadata.Attempt {
			out[c.config.Metadata.Name] = c.config
		}
	}
	return maps.Clone(out)
}
