package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// schedulings are the sizes of the cluster, which grows, and how many Pods are placed on it then.
var schedulings = []struct{ nodes, pods int }{{100, 2000}, {1000, 2000}, {most, 10000}}

// heartbeat is how often a hollow node renews its lease: twice in what it may be silent for, so that most of the requests are
// what is measured.
const heartbeat = 20 * time.Second

// hearts is how many clients renew leases at once.
const hearts = 8

// measureScheduler places Pods through the API on nodes that are objects only: nobody runs what they are given. The Pods are
// created by as many clients as the API is measured with, so that no rate can be higher than theirs.
func measureScheduler(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		if _, err := c.up(ctx); err != nil {
			return err
		}
		clients, err := c.clients(writers + hearts)
		if err != nil {
			return err
		}
		h := &hollow{c: c, clients: clients[:writers], hearts: clients[writers:]}
		ctx, stop := context.WithCancel(ctx)
		var beats sync.WaitGroup
		var beatErr error
		beats.Go(func() {
			defer stop() // nodes that fall silent would be waited for in vain
			beatErr = h.beat(ctx)
		})
		for _, step := range schedulings {
			got, stepErr := h.grow(ctx, step.nodes)
			if err = stepErr; err != nil {
				break
			}
			figures = append(figures, got...)
			got, stepErr = h.place(ctx, step.nodes, step.pods)
			if err = stepErr; err != nil {
				break
			}
			figures = append(figures, got...)
			got, stepErr = h.bindWaiting(ctx, step.nodes, step.pods)
			if err = stepErr; err != nil {
				break
			}
			figures = append(figures, got...)
		}
		stop()
		beats.Wait()
		return errors.Join(beatErr, err)
	})
	return figures, err
}

// hollow is a cluster with hollow nodes.
type hollow struct {
	c       *cluster
	clients []kubernetes.Interface
	hearts  []kubernetes.Interface
	// pods is how many there are.
	pods int

	mu    sync.Mutex
	nodes int // that there are, or will be in a moment
	// leases are those of the nodes that there are, as they were last written.
	leases [most]atomic.Pointer[coordinationv1.Lease]
}

// most is how many nodes the last of schedulings has.
const most = 5000

// place makes Pods for all nodes.
func (h *hollow) place(ctx context.Context, nodes, pods int) ([]figure, error) {
	w, err := h.clients[0].CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{
		// Each Pod comes by once, when it has a node; those of earlier steps come first.
		FieldSelector: "spec.nodeName!=", ResourceVersion: "",
	})
	if err != nil {
		return nil, fmt.Errorf("watch Pods: %w", err)
	}
	first := h.pods
	h.pods += pods
	var created, bound time.Duration
	cpu, err := h.c.spent(func() error {
		began := time.Now()
		var creating sync.WaitGroup
		var createErr error
		creating.Go(func() {
			_, created, createErr = share(ctx, len(h.clients), pods, func(ctx context.Context, worker, i int) error {
				_, err := h.clients[worker].CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, hollowPod(first+i), metav1.CreateOptions{})
				return err
			})
		})
		seen := 0
		err := h.c.follow(ctx, w, fmt.Sprintf("%d Pods on %d nodes", pods, nodes), func(e watch.Event) (bool, error) {
			if e.Type == watch.Added {
				seen++
			}
			return seen == h.pods, nil
		})
		bound = time.Since(began)
		creating.Wait()
		return errors.Join(err, createErr)
	})
	rate := single(fmt.Sprintf("Pods placed, %d nodes", nodes), "1/s", 0, float64(pods)/bound.Seconds())
	rate.moreBetter = true
	return []figure{
		rate,
		single("last created to last placed", "ms", 0, micros(bound-created)/1000),
		single("server's CPU, a Pod", "us", 0, micros(cpu)/float64(pods)),
	}, err
}

// grow makes nodes until there are so many, waits until all of them can take Pods, and measures what each of them cost, with
// the renewals of leases meanwhile.
func (h *hollow) grow(ctx context.Context, nodes int) ([]figure, error) {
	h.mu.Lock()
	have := h.nodes
	h.nodes = nodes // what takes longer than a node may be silent must not cost the first ones
	h.mu.Unlock()
	cpu, err := h.c.spent(func() error {
		if err := h.make(ctx, have, nodes); err != nil {
			return fmt.Errorf("create nodes: %w", err)
		}
		return h.awaitOpen(ctx, nodes)
	})
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("nodes %d to %d added, server's CPU each", have+1, nodes)
	return []figure{single(name, "us", 0, micros(cpu)/float64(nodes-have))}, letPass(ctx, servicesCalm)
}

// make creates the nodes from one number to before another, with their leases.
func (h *hollow) make(ctx context.Context, from, to int) error {
	_, _, err := share(ctx, len(h.clients), to-from, func(ctx context.Context, worker, i int) error {
		client, name := h.clients[worker], hollowName(from+i)
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &name, LeaseDurationSeconds: new(int32(40)), RenewTime: new(metav1.NowMicro()),
		}}
		lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create lease: %w", err)
		}
		h.leases[from+i].Store(lease)
		_, err = client.CoreV1().Nodes().Create(ctx, hollowNode(from+i), metav1.CreateOptions{})
		return err
	})
	return err
}

// awaitOpen waits until so many hollow nodes can take Pods.
func (h *hollow) awaitOpen(ctx context.Context, nodes int) error {
	w, err := h.clients[0].CoreV1().Nodes().Watch(ctx, metav1.ListOptions{LabelSelector: "hollow"})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	open := map[string]bool{}
	return h.c.follow(ctx, w, "hollow nodes", func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		if !ok {
			return false, nil
		}
		if node.Status.Conditions[0].Status != corev1.ConditionTrue {
			return false, fmt.Errorf("node %s fell silent: this machine is too busy to renew its lease every %s", node.Name, heartbeat)
		}
		if len(node.Spec.Taints) == 0 {
			open[node.Name] = true
		}
		return len(open) == nodes, nil
	})
}

// beat renews the leases, each every heartbeat, until ctx ends.
func (h *hollow) beat(ctx context.Context) error {
	var beating sync.WaitGroup
	errs := make([]error, len(h.hearts))
	for i, heart := range h.hearts {
		beating.Go(func() { errs[i] = h.beatSome(ctx, heart, i) })
	}
	beating.Wait()
	return errors.Join(errs...)
}

// beatSome renews the leases that are one heart's, one after the other, as kubelets do: each is written over as it was last seen.
func (h *hollow) beatSome(ctx context.Context, client kubernetes.Interface, heart int) error {
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for next := heart; ; next += len(h.hearts) {
		h.mu.Lock()
		nodes := h.nodes
		h.mu.Unlock()
		if next >= nodes {
			next = heart
		}
		sent := time.Now()
		if lease := h.leases[next].Load(); next < nodes && lease != nil { // a node that is still to be made has none
			lease = lease.DeepCopy()
			lease.Spec.RenewTime = &metav1.MicroTime{Time: sent}
			lease, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
			switch {
			case err == nil:
				h.leases[next].Store(lease)
			case ctx.Err() == nil:
				return fmt.Errorf("renew lease of %s: %w", hollowName(next), err)
			}
		}
		pause := heartbeat*time.Duration(len(h.hearts))/time.Duration(max(nodes, 1)) - time.Since(sent)
		if letPass(ctx, min(pause, time.Second)) != nil {
			return nil
		}
	}
}

func hollowName(i int) string { return fmt.Sprintf("hollow-%d", i) }

// hollowNode is a node that says it is ready. It has no address, so that the machine's own node makes no way to it; its
// Pods' addresses are of its own invention.
func hollowNode(i int) *corev1.Node {
	name := hollowName(i)
	cidr := fmt.Sprintf("100.%d.%d.0/24", 64+i/256, i%256)
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"hollow": "", corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%10),
		}},
		Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		}}},
	}
}

// hollowPod is a Pod for hollow nodes alone.
func hollowPod(i int) *corev1.Pod {
	p := pod(fmt.Sprintf("pod-%d", i))
	p.Labels = map[string]string{"app": fmt.Sprintf("app-%d", i%100)}
	p.Spec.NodeSelector = map[string]string{"hollow": ""}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	return p
}
