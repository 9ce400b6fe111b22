// Package daemon composes Peapod: it is the only package that knows all others. It starts the parts of a server in order
// and stops them in reverse.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/controllers/authenticationtrust"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/footprint"
	"github.com/peapod/peapod/internal/version"
)

// Run is a server: it returns when ctx ends and everything has stopped, or when a part fails. Containers keep running.
func Run(ctx context.Context, i instance.Instance, o Options) error {
	s, err := o.settle()
	if err != nil {
		return err
	}
	if err := onlyServer(i); err != nil {
		return err
	}
	lock, err := claim(i)
	if err != nil {
		return err
	}
	defer lock.Release()
	ps, ctx := newParts(ctx)
	ps.start("memory", footprint.New(footprint.Config{Trimmed: func(bytes uint64) {
		klog.FromContext(ctx).V(2).Info("Gave back memory", "bytes", bytes)
	}}).Run)
	err = start(ctx, ps, i, s)
	if err == nil {
		<-ctx.Done()
		klog.FromContext(ctx).Info("Stopping")
	}
	return errors.Join(err, ps.stop())
}

// claim takes the data directory for this process and gets it, and the run directory, ready.
func claim(i instance.Instance) (_ *instance.Lock, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("making containers and networks takes root: run peapod with sudo")
	}
	if err := i.CheckOwn(); err != nil { // Uninstall would remove what is in it.
		return nil, err
	}
	lock, err := i.Lock()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Release())
		}
	}()
	if err := os.Remove(i.ReadyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clear readiness: %w", err)
	}
	if err := i.Open(version.Peapod); err != nil {
		return nil, err
	}
	if err := i.OpenRun(); err != nil {
		return nil, err
	}
	klog.Background().Info("Starting", "version", version.Peapod, "kubernetes", version.Kubernetes, "dataDir", i.DataDir, "instance", i.Name)
	tellBuild()
	return lock, nil
}

// start starts all parts and returns when the server is ready.
func start(ctx context.Context, ps *parts, i instance.Instance, s settled) error {
	guards, err := s.APIOptions.open(ctx, s.NodeName)
	if err != nil {
		return err
	}
	if err := placeKubelet(i, s.RootDir); err != nil {
		return err
	}
	used, err := usedPrefixes()
	if err != nil {
		return err
	}
	st, claims, err := openStorage(ctx, i, &s, used)
	if err != nil {
		return err
	}
	ps.closing("store", st.Close)
	ranges, err := s.claimRanges(i, used)
	if err != nil {
		return err
	}
	listener, err := listen(s)
	if err != nil {
		return err
	}
	ps.closing("API listener", func() error { return ignoreClosed(listener.Close()) })
	kubeletListener, err := listenKubelet(i, s)
	if err != nil {
		return err
	}
	ps.closing("kubelet listener", func() error { return ignoreClosed(kubeletListener.Close()) })
	keys, err := openKeys(i, s, ranges)
	if err != nil {
		return err
	}
	ps.start("certificate renewal", keys.Run)
	if err := keys.WriteKubeconfig(i.Kubeconfig(), clientURL(s)); err != nil {
		return fmt.Errorf("write administrator's kubeconfig: %w", err)
	}
	return startParts(ctx, ps, i, s, keyed{st, claims, keys, ranges, listener, kubeletListener, guards})
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// clientURL is where clients on this machine reach the API.
func clientURL(s settled) string {
	host := s.bind
	if host.IsUnspecified() {
		host = s.loopback()
	}
	return "https://" + net.JoinHostPort(host.String(), strconv.Itoa(s.Port))
}

// startParts starts what works on the store: control plane first, then the node, whose runtime opens meanwhile where it is
// known which addresses its Pods have.
func startParts(ctx context.Context, ps *parts, i instance.Instance, s settled, k keyed) error {
	var opening *opening
	if k.claims == nil {
		var err error
		if opening, err = openContainers(ctx, ps, i, s, k, firstPart(k.ranges.Cluster)); err != nil {
			return err
		}
		defer opening.wait()
	}
	c, err := newControl(s, k)
	if err != nil {
		return err
	}
	plane, err := newPlane(s, c, k)
	if err != nil {
		return err
	}
	var n *nodeParts
	if opening != nil {
		// Before the API server starts, and with it the informers that all share.
		if n, err = newNodeParts(i, s, c, k, opening); err != nil {
			return err
		}
	}
	if err := k.store.Wait(ctx); err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	k.guards.start(ps)
	ps.start("API server", c.run)
	if opening != nil {
		if err := opening.wait(); err != nil {
			return err
		}
	}
	// The roles by which the components act are made at the first start: before, they would only be refused.
	if !c.awaitBootstrap(ctx) {
		return nil
	}
	plane.start(ps)
	close(c.started)
	if n == nil {
		if n, err = joinNode(ctx, ps, i, s, c, k); err != nil || ctx.Err() != nil {
			return err
		}
	}
	n.start(ps)
	select {
	case <-c.server.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := c.awaitNode(ctx, s.NodeName); err != nil || ctx.Err() != nil {
		return err
	}
	klog.FromContext(ctx).Info("Ready", "address", clientURL(s), "kubeconfig", i.Kubeconfig(), "node", s.NodeName)
	return i.MarkReady()
}

// plane is what works on the API of this server, but for the node.
type plane struct{ controlling, scheduling, ownServices, trust func(context.Context) error }

// newPlane comes before the API server starts, and with it the informers that all share.
func newPlane(s settled, c *control, k keyed) (*plane, error) {
	scheduling, err := c.alone(schedulerLock, schedulerUser, func(f informers.SharedInformerFactory) (func(context.Context) error, error) {
		return newScheduler(c, f)
	})
	if err != nil {
		return nil, err
	}
	controlling, err := c.alone(managerLock, managerUser, func(f informers.SharedInformerFactory) (func(context.Context) error, error) {
		return newControllers(s, c, f)
	})
	if err != nil {
		return nil, err
	}
	ownServices, err := newOwnServices(s, c, k)
	if err != nil {
		return nil, err
	}
	trust, err := authenticationtrust.New(authenticationtrust.Config{
		Client: c.system, ClientCA: k.keys.ClientCA(), FrontProxyCA: k.keys.FrontProxyCA(), FrontProxyName: pki.FrontProxyName,
	})
	if err != nil {
		return nil, err
	}
	return &plane{controlling: controlling, scheduling: scheduling, ownServices: ownServices, trust: trust.Run}, nil
}

func (p *plane) start(ps *parts) {
	ps.start("controllers", p.controlling)
	ps.start("scheduler", p.scheduling)
	ps.start("own services", p.ownServices)
	ps.start("authentication trust", p.trust)
}

// keyed is what start hands to startParts.
type keyed struct {
	store           storage
	claims          apiserver.Claims // nil: no other server has the store
	keys            *pki.PKI
	ranges          instance.Ranges
	listener        net.Listener
	kubeletListener net.Listener
	guards          guards
}
