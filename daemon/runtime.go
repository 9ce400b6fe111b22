package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/runtime/cri"
)

// RunRuntime is the container runtime alone behind its CRI socket: it returns when ctx ends, or when it fails. Containers
// keep running. ready is called once the runtime has taken over what runs and the socket is about to open.
func RunRuntime(ctx context.Context, i instance.Instance, o Options, ready func()) error {
	s, err := o.settle()
	if err != nil {
		return err
	}
	lock, err := claim(i)
	if err != nil {
		return err
	}
	defer lock.Release()
	used, err := usedPrefixes()
	if err != nil {
		return err
	}
	ranges, err := i.ClaimRanges(s.want, used)
	if err != nil {
		return err
	}
	e, err := newContainers(ctx, i, podNetwork{node: firstPart(ranges.Cluster), cluster: ranges.Cluster}, s.NodeOptions)
	if err != nil {
		return err
	}
	ps, ctx := newParts(ctx)
	ps.closing("container runtime", e.close)
	err = e.open(ctx)
	if err == nil {
		ps.start("CRI socket", func(ctx context.Context) error { return cri.Serve(ctx, i.Socket(), e.service, e.images) })
		ready()
		<-ctx.Done()
	} else {
		err = fmt.Errorf("open: %w", err)
	}
	return errors.Join(err, ps.stop())
}
