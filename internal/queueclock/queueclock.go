// Package queueclock is the clock for work queues that have a name and so metrics. The queues of client-go wake up twice a
// second, each of them, to bring the gauges of unfinished work up to date, which on an idle machine is most of what a
// process with many controllers does. With this clock they do it as often as metrics are usually scraped.
package queueclock

import (
	"time"

	"k8s.io/utils/clock"
)

// Period is how old the gauges of unfinished work may be.
const Period = 30 * time.Second

// Clock is the real one, but for tickers: none ticks more often than once in a Period. Timers, by which delayed keys come
// back, are exact.
type Clock struct{ clock.RealClock }

var _ clock.WithTicker = Clock{}

// NewTicker returns a ticker of d or Period, whichever is longer.
func (c Clock) NewTicker(d time.Duration) clock.Ticker { return c.RealClock.NewTicker(max(d, Period)) }
