package usage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

const (
	// together bounds how many kubelets are asked at once.
	together = 200
	// mostAnswer bounds what is read of an answer: 250 Pods with many containers take some hundred kilobytes.
	mostAnswer = 32 << 20
)

// round takes samples of all nodes, one after another.
type round struct {
	config Config
	// hasty leaves out nodes that are not heard of.
	hasty bool

	mu sync.Mutex
	// nodes are those that have answered the last time.
	nodes map[string]*node
	// silent are those that have not, which has been told.
	silent map[string]bool
}

// take asks all kubelets and waits for their answers, for each at most limit. It fails if it is not known which nodes there are; what is
// known is kept then.
func (r *round) take(ctx context.Context, limit time.Duration) error {
	list, err := r.config.Nodes(ctx)
	if err != nil {
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Nodes cannot be measured: they cannot be listed")
		}
		return fmt.Errorf("list nodes: %w", err)
	}
	next := make(map[string]*node, len(list))
	var asking errgroup.Group
	asking.SetLimit(together)
	for _, n := range list {
		if r.hasty && !n.Ready {
			continue
		}
		old := r.nodes[n.Name]
		asking.Go(func() error {
			answer, err := r.ask(ctx, n.Name, limit)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.tell(ctx, n, err)
			if err == nil {
				next[n.Name] = old.advance(answer, period)
			}
			return nil
		})
	}
	_ = asking.Wait() // who does not answer has been told of
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.nodes = next
	r.forget(list)
	return nil
}

// tell logs that a node does not answer, once until it does.
func (r *round) tell(ctx context.Context, n Node, err error) {
	if ctx.Err() != nil || (err != nil) == r.silent[n.Name] {
		return
	}
	if err == nil {
		delete(r.silent, n.Name)
		klog.FromContext(ctx).Info("Node can be measured again", "node", n.Name)
		return
	}
	r.silent[n.Name] = true
	klog.FromContext(ctx).Error(err, "Node cannot be measured: it has no metrics until it can", "node", n.Name, "ready", n.Ready)
}

// forget drops what was told of nodes that are gone.
func (r *round) forget(list []Node) {
	if len(r.silent) == 0 {
		return
	}
	there := make(map[string]bool, len(list))
	for _, n := range list {
		there[n.Name] = true
	}
	for name := range r.silent {
		if !there[name] {
			delete(r.silent, name)
		}
	}
}

// reading is what is known after the last sample.
func (r *round) reading() *reading { return &reading{r.nodes} }

// ask reads a kubelet's counters.
func (r *round) ask(ctx context.Context, name string, limit time.Duration) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	base, transport, err := r.config.Kubelets.Kubelet(ctx, name)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("metrics", "resource").String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	// Packing costs kubelets more than the bytes cost the network.
	req.Header.Set("Accept-Encoding", "identity")
	asked := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // it is for the message only
		return nil, fmt.Errorf("ask for metrics: %s: %s", resp.Status, said)
	}
	return parse(io.LimitReader(resp.Body, mostAnswer), asked)
}
