// Package evict keeps the node alive when it runs short of memory, disk or
// processes: it says so in the node's conditions, frees what nobody needs, and
// ends Pods, those first that use most beyond what they asked for. It also ends
// Pods that exceed their own limits of local storage.
//
// What to do is decided by pure functions of observations (decide.go, rank.go,
// limit.go); Manager observes and acts.
package evict

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that can run short.
type Signal string

// Kubernetes' signals.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that have no name in the core API.
const (
	inodes v1.ResourceName = "inodes"
	pids   v1.ResourceName = "pids"
)

// condition is the node condition that a shortage sets.
func (s Signal) condition() v1.NodeConditionType {
	switch s {
	case MemoryAvailable:
		return v1.NodeMemoryPressure
	case PIDAvailable:
		return v1.NodePIDPressure
	default:
		return v1.NodeDiskPressure
	}
}

// resource is what Pods give back when they end.
func (s Signal) resource() v1.ResourceName {
	switch s {
	case MemoryAvailable:
		return v1.ResourceMemory
	case NodeFsInodesFree, ImageFsInodesFree:
		return inodes
	case PIDAvailable:
		return pids
	default:
		return v1.ResourceEphemeralStorage
	}
}

// images says whether the signal is about the images' file system.
func (s Signal) images() bool { return s == ImageFsAvailable || s == ImageFsInodesFree }

// Amount is so much of something: a Quantity, or else Percent (0 to 1) of the
// capacity. The zero Amount is nothing.
type Amount struct {
	Quantity *resource.Quantity
	Percent  float32
}

// Threshold is how little of something must be left for the node to act.
type Threshold struct {
	Signal Signal
	Amount
	// Grace is how long that little must be left before Pods end for it. Zero
	// is a hard threshold: they end at once, and get no time to do so.
	Grace time.Duration
	// Reclaim is how much more than the threshold must be left, once Pods end,
	// before no more of them do.
	Reclaim Amount
}

// Hard says whether the node acts at once.
func (t *Threshold) Hard() bool { return t.Grace == 0 }

// DefaultThresholds are Kubernetes'.
func DefaultThresholds() []Threshold {
	memory := resource.MustParse("100Mi")
	return []Threshold{
		{Signal: MemoryAvailable, Amount: Amount{Quantity: &memory}},
		{Signal: NodeFsAvailable, Amount: Amount{Percent: 0.10}},
		{Signal: NodeFsInodesFree, Amount: Amount{Percent: 0.05}},
		{Signal: ImageFsAvailable, Amount: Amount{Percent: 0.15}},
		{Signal: ImageFsInodesFree, Amount: Amount{Percent: 0.05}},
	}
}

func (t *Threshold) validate() error {
	switch t.Signal {
	case MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable:
	default:
		return fmt.Errorf("use eviction threshold: signal %q is not known", t.Signal)
	}
	if (t.Quantity == nil) == (t.Percent == 0) || t.Percent < 0 || t.Percent >= 1 {
		return fmt.Errorf("use eviction threshold %s: one of a quantity and a part between 0 and 1 is required", t.Signal)
	}
	if t.Grace < 0 {
		return fmt.Errorf("use eviction threshold %s: grace %v is negative", t.Signal, t.Grace)
	}
	return nil
}

// String is the amount as configurations have it: "100Mi" or "10%".
func (a Amount) String() string {
	if a.Quantity != nil {
		return a.Quantity.String()
	}
	return fmt.Sprintf("%.4g%%", a.Percent*100)
}

// quantity is the amount of what was observed.
func (a Amount) quantity(o Observation) *resource.Quantity {
	if a.Quantity != nil {
		return a.Quantity
	}
	return resource.NewQuantity(int64(float64(o.Capacity)*float64(a.Percent)), resource.BinarySI)
}

// Observation is how much of something is left: bytes, inodes or processes.
type Observation struct{ Available, Capacity int64 }

// Observations are all that the node can tell; a signal that is missing is not
// known and never met.
type Observations map[Signal]Observation

// available is an observation as an amount, in the format that the signal's
// messages have.
func (o Observations) available(s Signal) *resource.Quantity {
	format := resource.BinarySI
	if r := s.resource(); r == inodes || r == pids {
		format = resource.DecimalSI
	}
	return resource.NewQuantity(o[s].Available, format)
}
