package kubelet

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/cgroup"
	"github.com/peapod/peapod/kubelet/metrics"
)

// timedCgroups are the cgroups of Pods, each change of which is timed.
type timedCgroups struct {
	*cgroup.Tree
	metrics *metrics.Set
}

func (c timedCgroups) Ensure(p *v1.Pod) error {
	defer c.metrics.CgroupDone("create", time.Now())
	return c.Tree.Ensure(p)
}

func (c timedCgroups) Widen(from, to *v1.Pod) error {
	defer c.metrics.CgroupDone("update", time.Now())
	return c.Tree.Widen(from, to)
}

func (c timedCgroups) Remove(ctx context.Context, uid types.UID) error {
	defer c.metrics.CgroupDone("destroy", time.Now())
	return c.Tree.Remove(ctx, uid)
}
