package evict

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// order is that of DefaultThresholds, with processes last.
var order = []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable}

// ParseThresholds reads thresholds as a kubelet's evictionHard has them: by signal a quantity, or a percentage of the
// capacity. They take the place of all defaults; 0% and 100% turn a signal off, as for a kubelet
// (kubernetes.io, node-pressure eviction). The result is never nil.
func ParseThresholds(hard map[string]string) ([]Threshold, error) {
	out := []Threshold{}
	for name := range hard {
		if !slices.Contains(order, Signal(name)) {
			return nil, fmt.Errorf("%s: not a signal; use one of %s", name, strings.Join(names(), ", "))
		}
	}
	for _, s := range order {
		value, ok := hard[string(s)]
		if !ok {
			continue
		}
		t, err := parseThreshold(s, value)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, *t)
		}
	}
	return out, nil
}

// parseThreshold reads one; nil is none.
func parseThreshold(s Signal, value string) (*Threshold, error) {
	if text, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := strconv.ParseFloat(text, 32)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return nil, fmt.Errorf("%s<%s: not a percentage between 0%% and 100%%", s, value)
		}
		if percent == 0 || percent == 100 {
			return nil, nil
		}
		return &Threshold{Signal: s, Percent: float32(percent / 100)}, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() <= 0 {
		return nil, fmt.Errorf("%s<%s: not a positive quantity such as 1Gi, nor a percentage such as 5%%", s, value)
	}
	return &Threshold{Signal: s, Quantity: &q}, nil
}

func names() []string {
	out := make([]string, len(order))
	for i, s := range order {
		out[i] = string(s)
	}
	return out
}

// Kept is what the thresholds keep from Pods of a node with that capacity: memory and local storage, the latter of the
// node's file system alone.
func Kept(thresholds []Threshold, capacity v1.ResourceList) v1.ResourceList {
	kept := v1.ResourceList{}
	for _, t := range thresholds {
		name := t.Signal.resource()
		if t.Signal != MemoryAvailable && t.Signal != NodeFsAvailable {
			continue
		}
		if c, ok := capacity[name]; ok {
			kept[name] = *t.quantity(Observation{Capacity: c.Value()})
		}
	}
	return kept
}
