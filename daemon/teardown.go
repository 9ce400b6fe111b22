package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/removetree"
	"github.com/peapod/peapod/kubelet/cgroup"
	"github.com/peapod/peapod/kubelet/csi"
	"github.com/peapod/peapod/kubelet/volume"
)

// KillPods kills every Pod of the instance on this machine and ends its supervisor; no server of it may run. It returns
// how many Pods there were. It is idempotent.
func KillPods(ctx context.Context, i instance.Instance) (int, error) {
	if _, err := os.Stat(i.DataDir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err := i.CheckOwn(); err != nil {
		return 0, err
	}
	lock, err := i.Lock()
	if err != nil {
		return 0, err
	}
	defer lock.Release()
	return killPods(ctx, i)
}

// killPods does it while the lock is held.
func killPods(ctx context.Context, i instance.Instance) (n int, err error) {
	ranges, made, err := i.Ranges()
	if err != nil || !made {
		return 0, err // no server has come so far as to start anything
	}
	agent, err := readAgent(i)
	if err != nil {
		return 0, err
	}
	pods := podNetwork{node: firstPart(ranges.Cluster), cluster: ranges.Cluster}
	server, err := readShared(i)
	if err != nil {
		return 0, err
	}
	for _, own := range []cidrs.List{agent.PodCIDRs, server.PodCIDRs} {
		if len(own) > 0 {
			pods.node = own
		}
	}
	if err := i.OpenRun(); err != nil {
		return 0, err
	}
	e, err := newContainers(ctx, i, pods, NodeOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err := e.supervisor.Ensure(ctx); err != nil {
		return 0, fmt.Errorf("reach container supervisor: %w", err)
	}
	if err := e.network.Open(ctx); err != nil {
		return 0, fmt.Errorf("open Pod network: %w", err)
	}
	if err := e.service.Open(ctx); err != nil {
		return 0, fmt.Errorf("open container runtime: %w", err)
	}
	ids, err := e.sandboxes(ctx)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, id := range ids {
		if err := errors.Join(e.service.StopPodSandbox(ctx, id), e.service.RemovePodSandbox(ctx, id)); err != nil {
			errs = append(errs, fmt.Errorf("kill Pod with sandbox %s: %w", id, err))
			continue
		}
		n++
	}
	// The service follows the supervisor, so it goes first.
	errs = append(errs, e.service.Close(ctx), e.network.Uninstall(ctx), e.supervisor.Shutdown(ctx))
	errs = append(errs, uninstallServices(i, ranges.Service))
	volumes := volume.New(volume.Config{RootDir: kubeletDir(i)})
	errs = append(errs, volumes.Adopt(ctx, nil), csi.Forget(kubeletDir(i)))
	if err := errors.Join(errs...); err != nil {
		return n, err
	}
	return n, i.CloseRun()
}

// Installed says whether there is anything of the instance for Uninstall to remove. A directory that is empty is nothing: it may be where a
// disk is mounted, which Uninstall leaves.
func Installed(i instance.Instance) (bool, error) {
	for _, dir := range []string{i.DataDir, i.RunDir} {
		if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	if there, err := cgroup.Exists(cgroupRoot(i)); there || err != nil {
		return there, err
	}
	return i.Claims()
}

// Uninstall removes all that the instance ever made on this machine; no server of it may run. It is idempotent. A data directory that is
// somebody else's is refused untouched.
func Uninstall(ctx context.Context, i instance.Instance) error {
	if err := i.CheckOwn(); err != nil {
		return err
	}
	if _, err := os.Stat(i.DataDir); err == nil {
		lock, err := i.Lock()
		if err != nil {
			return err
		}
		defer lock.Release()
		if _, err := killPods(ctx, i); err != nil {
			return err
		}
	}
	// A process that is in them yet is the instance's own, such as a supervisor whose socket is lost.
	if err := cgroup.RemoveAll(ctx, cgroupRoot(i)); err != nil {
		return err
	}
	if err := i.CloseRun(); err != nil {
		return err
	}
	// What drivers have mounted is not entered: what is in it outlives the node. A disk that the data directory is on, or one in it, is the
	// user's. What leads to the kubelet's directory goes after it.
	if err := leaveKubelet(i); err != nil {
		return err
	}
	if err := removetree.RemoveButDisks(i.RunDir); err != nil {
		return err
	}
	// By its record the directory is known to be the instance's, should this be cut short.
	if err := removetree.RemoveButDisks(i.DataDir, filepath.Base(i.RecordFile())); err != nil {
		return err
	}
	// Last, for it removes what the instance's run directory was in.
	return i.ReleaseClaim()
}
