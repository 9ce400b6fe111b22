// Package cluster runs the real peapod binary for end-to-end tests: a server with a data directory, ports and clients of
// its own, stand-ins for public images and registries on loopback that serve them, and a search for whatever an
// uninstalled instance might have left on the machine.
//
// Nothing here waits for time to pass: a server is ready when `peapod status --wait` says so, and has ended when its
// process has.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/peapod/peapod/daemon/instance"
)

// ready is how long a server may take, on a machine busy with other tests, before it counts as broken.
const ready = 2 * time.Minute

// Config says what cluster to make. The zero value is one node with defaults.
type Config struct {
	// Args are further arguments of `peapod server`.
	Args []string
	// Env is added to the server's environment.
	Env []string
	// Prepare, if any, fills the data directory before the first start.
	Prepare func(dataDir string) error
}

// AnyDisk are the arguments of servers and agents that run where others may have filled the disk: what is tested does not
// depend on how full it is.
var AnyDisk = []string{"--eviction-hard=memory.available<100Mi", "--image-gc-high-threshold=100"}

// Cluster is one instance of peapod on this machine. Its methods are not safe for use while the server is being started
// or ended by another goroutine.
type Cluster struct {
	// Binary is the peapod that is tested.
	Binary string
	// Dir holds the data directory, the server's log and kubectl's cache. It is gone after Uninstall.
	Dir string
	// Instance is the name that everything of this cluster carries.
	Instance instance.Instance
	// Port is where the API is served.
	Port int
	// Log is the server's, over all its starts.
	Log *Log

	cfg    Config
	server *process
}

// process is a started server.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	err   error         // of Wait; read after ended
}

// dirPrefix is followed by the process ID of the test that owns the directory.
const dirPrefix = "peapod-e2e-"

// New names a cluster, with a directory and a port of its own, and starts nothing. The binary is $PEAPOD, or bin/peapod of
// this module.
func New(cfg Config) (*Cluster, error) {
	binary, err := findBinary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, fmt.Errorf("make directory of cluster: %w", err)
	}
	inst, err := instance.At(filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	if cfg.Prepare != nil {
		if err := os.Mkdir(inst.DataDir, 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
		if err := cfg.Prepare(inst.DataDir); err != nil {
			return nil, fmt.Errorf("prepare data directory: %w", err)
		}
	}
	return &Cluster{Binary: binary, Dir: dir, Instance: inst, Port: port, Log: &Log{File: filepath.Join(dir, "server.log")}, cfg: cfg}, nil
}

// Start makes a cluster and waits until it is ready.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return c, c.StartServer(ctx)
}

// StartServer starts the server, again if it has ended, and waits until it is ready. Its log goes on with what it says.
func (c *Cluster) StartServer(ctx context.Context) error {
	log, err := c.Log.Open()
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"server", "--data-dir", c.Instance.DataDir, "--port", strconv.Itoa(c.Port)}, AnyDisk...)
	args = append(args, c.cfg.Args...)
	cmd := exec.Command(c.Binary, args...)
	cmd.Env = append(os.Environ(), c.cfg.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// The server ends when the test says so, not with the terminal that the test runs on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	c.server = p
	return c.awaitReady(ctx, p)
}

func (c *Cluster) awaitReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, ready)
	defer cancel()
	status := c.CommandContext(ctx, "status", "--wait", ready.String())
	done := make(chan error, 1)
	var out []byte
	go func() {
		var err error
		out, err = status.CombinedOutput()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("wait for server: %w: %s", err, out)
		}
		return nil
	case <-p.ended:
		cancel()
		<-done
		return fmt.Errorf("the server ended before it was ready: %w", errOrZero(p.err))
	}
}

// errOrZero words an exit with code 0 as an error, where any exit is one.
func errOrZero(err error) error {
	if err == nil {
		return errors.New("exit code 0")
	}
	return err
}

// ServerPID is the process ID of the server that was started last.
func (c *Cluster) ServerPID() int { return c.server.cmd.Process.Pid }

// Ended is closed when the server that was started last has ended.
func (c *Cluster) Ended() <-chan struct{} { return c.server.ended }

// Stop ends the server with SIGTERM and waits; its Pods keep running. An exit code but 0 is an error.
func (c *Cluster) Stop() error {
	if err := c.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if c.server.err != nil {
		return fmt.Errorf("stop server: %w", c.server.err)
	}
	return nil
}

// Kill ends the server with SIGKILL and waits; its Pods keep running.
func (c *Cluster) Kill() error { return c.signal(syscall.SIGKILL) }

func (c *Cluster) signal(s syscall.Signal) error {
	if c.server == nil {
		return errors.New("no server was started")
	}
	if err := c.server.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal server: %w", err)
	}
	<-c.server.ended
	return nil
}

// Command is `peapod args...` for this cluster's data directory.
func (c *Cluster) Command(args ...string) *exec.Cmd {
	return c.CommandContext(context.Background(), args...)
}

// CommandContext is Command, killed when ctx is done.
func (c *Cluster) CommandContext(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Binary, args...)
	cmd.Env = append(os.Environ(), instance.DataDirEnv+"="+c.Instance.DataDir, "HOME="+c.Dir, "KUBECONFIG=")
	return cmd
}

// Run is `peapod args...`, whose combined output it returns.
func (c *Cluster) Run(args ...string) (string, error) {
	out, err := c.Command(args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("peapod %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// ForeignKubectl is the kubectl of this machine, told of this cluster by KUBECONFIG; ok is false where there is none.
func (c *Cluster) ForeignKubectl(args ...string) (cmd *exec.Cmd, ok bool) {
	path, err := exec.LookPath("kubectl")
	if err != nil {
		return nil, false
	}
	cmd = exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Instance.Kubeconfig(), "HOME="+c.Dir)
	return cmd, true
}

// RESTConfig is the administrator's, without a client-side limit of requests.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Instance.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// Client is the administrator's.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	cfg, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// FreePort returns a TCP port on which nobody listens just now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Root is the directory of this module.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find module: no go.mod in this directory or above")
		}
		dir = parent
	}
}

func findBinary() (string, error) {
	if path := os.Getenv("PEAPOD"); path != "" {
		return filepath.Abs(path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "peapod")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the binary to test is not there: run 'make build' first, or name one in PEAPOD: %w", err)
	}
	return path, nil
}
