package evict

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// order is that of DefaultThresholds, with processes last.
var order = []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable}

// Settings are thresholds in the terms of a kubelet's configuration: each map is
// by signal.
type Settings struct {
	// Hard and Soft are quantities or percentages of the capacity; 0% and 100%
	// turn a signal off. A Hard that is nil means DefaultThresholds; any other
	// takes the place of all of them.
	Hard, Soft map[string]string
	// SoftGrace are durations; each signal of Soft needs one.
	SoftGrace map[string]string
	// MinimumReclaim are quantities or percentages, for hard and soft alike.
	MinimumReclaim map[string]string
}

// ParseThresholds reads settings (kubernetes.io, node-pressure eviction). The
// result is never nil, hard thresholds first. Errors name the kubelet's flag.
func ParseThresholds(s Settings) ([]Threshold, error) {
	out := DefaultThresholds()
	if s.Hard != nil {
		var err error
		if out, err = parseAll(s.Hard); err != nil {
			return nil, fmt.Errorf("--eviction-hard: %w", err)
		}
	}
	soft, err := parseAll(s.Soft)
	if err != nil {
		return nil, fmt.Errorf("--eviction-soft: %w", err)
	}
	graces, err := parseGraces(s.SoftGrace)
	if err != nil {
		return nil, fmt.Errorf("--eviction-soft-grace-period: %w", err)
	}
	for _, t := range soft {
		var ok bool
		if t.Grace, ok = graces[t.Signal]; !ok {
			return nil, fmt.Errorf("--eviction-soft: grace period must be specified for the soft eviction threshold %s; add --eviction-soft-grace-period=%s=1m30s", t.Signal, t.Signal)
		}
		out = append(out, t)
	}
	reclaims, err := parseReclaims(s.MinimumReclaim)
	if err != nil {
		return nil, fmt.Errorf("--eviction-minimum-reclaim: %w", err)
	}
	for i := range out {
		out[i].Reclaim = reclaims[out[i].Signal]
	}
	return out, nil
}

// known refuses names that are no signals.
func known(values map[string]string) error {
	for name := range values {
		if !slices.Contains(order, Signal(name)) {
			return fmt.Errorf("unsupported eviction signal %s; use one of %s", name, strings.Join(names(), ", "))
		}
	}
	return nil
}

// parseAll reads thresholds, in the order of signals; never nil.
func parseAll(values map[string]string) ([]Threshold, error) {
	out := []Threshold{}
	if err := known(values); err != nil {
		return nil, err
	}
	for _, s := range order {
		value, ok := values[string(s)]
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
	a, err := parseAmount(value)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s<%s: %w", s, value, err)
	case a.Quantity != nil && a.Quantity.Sign() <= 0:
		return nil, fmt.Errorf("eviction threshold %s must be positive: %s", s, value)
	case a.Quantity == nil && (a.Percent == 0 || a.Percent == 1):
		return nil, nil
	}
	return &Threshold{Signal: s, Amount: a}, nil
}

// parseAmount reads a quantity or a percentage of at most 100%.
func parseAmount(value string) (Amount, error) {
	if text, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := strconv.ParseFloat(text, 32)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return Amount{}, errors.New("not a percentage between 0% and 100%")
		}
		return Amount{Percent: float32(percent / 100)}, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return Amount{}, errors.New("not a quantity such as 1Gi, nor a percentage such as 5%")
	}
	return Amount{Quantity: &q}, nil
}

// parseGraces reads grace periods.
func parseGraces(values map[string]string) (map[Signal]time.Duration, error) {
	if err := known(values); err != nil {
		return nil, err
	}
	out := map[Signal]time.Duration{}
	for name, value := range values {
		d, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: not a duration such as 1m30s", name, value)
		}
		if d < 0 {
			return nil, fmt.Errorf("invalid eviction grace period specified: %s=%s, must be a positive value", name, value)
		}
		out[Signal(name)] = d
	}
	return out, nil
}

// parseReclaims reads what is to be reclaimed at least.
func parseReclaims(values map[string]string) (map[Signal]Amount, error) {
	if err := known(values); err != nil {
		return nil, err
	}
	out := map[Signal]Amount{}
	for name, value := range values {
		a, err := parseAmount(value)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s=%s: %w", name, value, err)
		case a.Quantity != nil && a.Quantity.Sign() < 0:
			return nil, fmt.Errorf("negative eviction minimum reclaim specified for %s: %s", name, value)
		case a.Quantity == nil && a.Percent == 0:
			return nil, fmt.Errorf("eviction percentage minimum reclaim %s must be positive: %s", name, value)
		}
		out[Signal(name)] = a
	}
	return out, nil
}

func names() []string {
	out := make([]string, len(order))
	for i, s := range order {
		out[i] = string(s)
	}
	return out
}

// Kept is what the hard thresholds keep from Pods of a node with that capacity: memory and local storage, the latter of the
// node's file system alone.
func Kept(thresholds []Threshold, capacity v1.ResourceList) v1.ResourceList {
	kept := v1.ResourceList{}
	for _, t := range thresholds {
		name := t.Signal.resource()
		if !t.Hard() || (t.Signal != MemoryAvailable && t.Signal != NodeFsAvailable) {
			continue
		}
		if c, ok := capacity[name]; ok {
			kept[name] = *t.quantity(Observation{Capacity: c.Value()})
		}
	}
	return kept
}
