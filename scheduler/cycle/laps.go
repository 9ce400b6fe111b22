package cycle

import (
	"time"

	"github.com/peapod/peapod/scheduler/framework"
)

// Lap is what a part of a decision took, and what came of it.
type Lap struct {
	Point   framework.Point
	Verdict framework.Verdict
	Took    time.Duration
}

// Laps are those of one decision: no more than there are points before a node is chosen. Behind the last one Point is empty.
type Laps [3]Lap

// stopwatch takes laps; without a clock it does nothing.
type stopwatch struct {
	now  func() time.Time
	last time.Time
	laps Laps
	next int
}

func startWatch(now func() time.Time) stopwatch {
	w := stopwatch{now: now}
	if now != nil {
		w.last = now()
	}
	return w
}

// lap ends a part.
func (w *stopwatch) lap(point framework.Point, verdict framework.Verdict) {
	if w.now == nil {
		return
	}
	now := w.now()
	w.laps[w.next] = Lap{Point: point, Verdict: verdict, Took: now.Sub(w.last)}
	w.last, w.next = now, w.next+1
}
