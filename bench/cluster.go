package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// cluster is a Peapod of one node with a data directory of its own, whose server is started and stopped.
type cluster struct {
	settings
	dir    string
	port   int
	server *exec.Cmd
	// exited is closed when the server's process has ended.
	exited chan struct{}
	exit   error
	log    logTail
}

// withCluster calls use with a cluster whose server does not run yet, and removes the cluster whatever happens.
func withCluster(ctx context.Context, s settings, use func(c *cluster) error) (err error) {
	dir, err := os.MkdirTemp("", "peapod-bench-")
	if err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	c := &cluster{settings: s, dir: dir, port: port}
	defer func() {
		err = errors.Join(err, c.remove())
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nthe end of the server's log:\n%s", err, c.log.String())
		}
	}()
	return use(c)
}

// freePort returns a port that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// start executes the server and returns the moment at which it did so.
func (c *cluster) start() (time.Time, error) {
	c.server = exec.Command(c.peapod, "server", "--data-dir", c.dir, "--port", strconv.Itoa(c.port), "--node-name", "bench",
		"--eviction-hard=memory.available<100Mi") // what is on the disk is no part of the figures
	c.server.Stderr = &c.log
	if c.verbose {
		c.server.Stderr = io.MultiWriter(&c.log, os.Stderr)
	}
	c.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := c.server.Start(); err != nil {
		return began, fmt.Errorf("start server: %w", err)
	}
	exited, server := make(chan struct{}), c.server
	c.exited = exited
	go func() {
		defer close(exited)
		c.exit = server.Wait()
	}()
	return began, nil
}

// stop ends the server; Pods keep running.
func (c *cluster) stop() error {
	if c.exited == nil {
		return nil
	}
	if err := c.server.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop server: %w", err)
	}
	select {
	case <-c.exited:
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the server does not stop within a minute: killing it"), c.server.Process.Kill())
	}
	c.exited = nil
	if c.exit != nil {
		return fmt.Errorf("stop server: %w", c.exit)
	}
	return nil
}

// remove removes all that the cluster ever made.
func (c *cluster) remove() error {
	err := c.stop()
	if out, unErr := exec.Command(c.peapod, "uninstall", "--yes", "--data-dir", c.dir).CombinedOutput(); unErr != nil {
		err = errors.Join(err, fmt.Errorf("uninstall: %w: %s", unErr, out))
	}
	return err
}

// ended is the error of a wait that was cut short, by ctx or by the server's end.
func (c *cluster) ended(ctx context.Context, waitedFor string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("wait for %s: %w", waitedFor, ctx.Err())
	}
	return fmt.Errorf("wait for %s: the server ended: %w", waitedFor, c.exit)
}

// awaitReadyz waits until /readyz answers 200 and returns when it did. It asks every two milliseconds, as there is nothing
// to wait on before the server listens.
func (c *cluster) awaitReadyz(ctx context.Context) (time.Time, error) {
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", c.port)); err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return time.Now(), nil
			}
		}
		select {
		case <-tick.C:
		case <-c.exited:
			return time.Time{}, c.ended(ctx, "readyz")
		case <-ctx.Done():
			return time.Time{}, c.ended(ctx, "readyz")
		}
	}
}

// config returns the administrator's access, without a limit of its own on requests, speaking protobuf. Each has its own
// connection.
func (c *cluster) config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "admin.kubeconfig"))
	if err != nil {
		return nil, fmt.Errorf("read administrator's kubeconfig: %w", err)
	}
	config.QPS = -1
	config.DisableCompression = true // as within a cluster
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.Dial = (&net.Dialer{}).DialContext
	config.WarningHandlerWithContext = rest.NoWarnings{}
	return config, nil
}

// client returns a client with the administrator's access.
func (c *cluster) client() (kubernetes.Interface, error) {
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

// follow calls event with every event of the watch until it says that what was waited for has come, and ends the watch.
func (c *cluster) follow(ctx context.Context, w watch.Interface, waitedFor string, event func(watch.Event) (done bool, err error)) error {
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("wait for %s: the watch ended", waitedFor)
			}
			if done, err := event(e); done || err != nil {
				return err
			}
		case <-c.exited:
			return c.ended(ctx, waitedFor)
		case <-ctx.Done():
			return c.ended(ctx, waitedFor)
		}
	}
}

// awaitNode waits until the node is ready and returns when it was. A start after the first finds a Node that says Ready
// from before, so what counts is a heartbeat that is newer than the start: the kubelet's first word.
func (c *cluster) awaitNode(ctx context.Context, client kubernetes.Interface, began time.Time) (ready time.Time, err error) {
	w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return ready, fmt.Errorf("watch nodes: %w", err)
	}
	err = c.follow(ctx, w, "the node", func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		ready = time.Now()
		return ok && readySince(node, began), nil
	})
	return ready, err
}

// readySince says whether the node has said since then, to the second, that it is ready.
func readySince(node *corev1.Node, then time.Time) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue && !condition.LastHeartbeatTime.Time.Before(then.Truncate(time.Second))
		}
	}
	return false
}

// up starts the server and waits until Pods can be created in the default namespace and run.
func (c *cluster) up(ctx context.Context) (kubernetes.Interface, error) {
	began, err := c.start()
	if err != nil {
		return nil, err
	}
	if _, err := c.awaitReadyz(ctx); err != nil {
		return nil, err
	}
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	if _, err := c.awaitNode(ctx, client, began); err != nil {
		return nil, err
	}
	return client, c.awaitServiceAccount(ctx, client)
}

// awaitServiceAccount waits until the default namespace has its service account, without which no Pod is accepted.
func (c *cluster) awaitServiceAccount(ctx context.Context, client kubernetes.Interface) error {
	_, err := c.awaitObject(ctx, "the service account", "default", client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Watch)
	return err
}

// awaitObject waits until there is an object of that name among those that open watches, and returns it.
func (c *cluster) awaitObject(ctx context.Context, waitedFor, name string,
	open func(context.Context, metav1.ListOptions) (watch.Interface, error),
) (found runtime.Object, err error) {
	w, err := open(ctx, metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	if err != nil {
		return nil, fmt.Errorf("watch for %s: %w", waitedFor, err)
	}
	err = c.follow(ctx, w, waitedFor, func(e watch.Event) (bool, error) {
		found = e.Object
		return e.Type == watch.Added || e.Type == watch.Modified, nil
	})
	return found, err
}

// processes are the processes of the cluster that are no Pod's: the server, and the containers' supervisor, which has its
// directory among its arguments.
func (c *cluster) processes() ([]int, error) {
	supervisor, err := processesNaming(filepath.Join(c.dir, "supervisor"))
	return append(supervisor, c.server.Process.Pid), err
}

// spent is the processor time that the cluster's processes use while f runs.
func (c *cluster) spent(f func() error) (time.Duration, error) {
	pids, err := c.processes()
	if err != nil {
		return 0, err
	}
	before, err := cpuOf(pids)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := cpuOf(pids)
	return after - before, err
}

// clients returns n clients, each with its own connection.
func (c *cluster) clients(n int) ([]kubernetes.Interface, error) {
	clients := make([]kubernetes.Interface, n)
	for i := range clients {
		var err error
		if clients[i], err = c.client(); err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// share has workers make n requests between them, and returns how long each request took and how long all did. The first
// error ends it.
func share(ctx context.Context, workers, n int, request func(ctx context.Context, worker, i int) error) (each []time.Duration, all time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	each = make([]time.Duration, n)
	began := time.Now()
	var working sync.WaitGroup
	for worker := range workers {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				sent := time.Now()
				if err := request(ctx, worker, i); err != nil {
					cancel(err)
				}
				each[i] = time.Since(sent)
			}
		})
	}
	working.Wait()
	return each, time.Since(began), context.Cause(ctx)
}
