// Package nodeports keeps two Pods with the same host port off one node.
package nodeports

import (
	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "NodePorts" }

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if len(pod.Ports) == 0 {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		for _, h := range pod.Ports {
			if n.PortTaken(h) {
				return []framework.Reason{{Verdict: framework.Busy, Message: "node(s) didn't have free ports for the requested pod ports"}}
			}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod with one of the ports left, or a node appeared.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	if e.NodeAppeared() {
		return true
	}
	if !e.PodLeft() {
		return false
	}
	for _, left := range framework.NewPod(e.OldPod).Ports {
		for _, h := range pod.Ports {
			if h.Conflicts(left) {
				return true
			}
		}
	}
	return false
}
