package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// figure is one line of the table: what was measured, in which unit, and what it may be at most (or, where more is better,
// at least).
type figure struct {
	name    string
	unit    string
	samples []float64
	// budget is compared with the median; zero is no budget.
	budget     float64
	moreBetter bool
}

// milliseconds is a figure of durations.
func milliseconds(name string, budget float64, samples []time.Duration) figure {
	f := figure{name: name, unit: "ms", budget: budget}
	for _, d := range samples {
		f.samples = append(f.samples, float64(d)/float64(time.Millisecond))
	}
	return f
}

// single is a figure measured once.
func single(name, unit string, budget, value float64) figure {
	return figure{name: name, unit: unit, budget: budget, samples: []float64{value}}
}

// micros is a duration in microseconds.
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// quantile is the sample below which the part q of all samples lies, by nearest rank; the samples are not empty.
func (f figure) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(f.samples))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// verdict says whether the median keeps to the budget.
func (f figure) verdict() string {
	switch got := f.quantile(0.5); {
	case f.budget == 0:
		return ""
	case f.moreBetter && got < f.budget, !f.moreBetter && got > f.budget:
		return "OVER"
	}
	return "ok"
}

// printTable prints the figures: median, 99th percentile and number of samples, and the budget.
func printTable(w io.Writer, figures []figure) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tUNIT\tP50\tP99\tSAMPLES\tBUDGET\t")
	for _, f := range figures {
		budget, p99 := "-", "-"
		if f.budget != 0 {
			budget = number(f.budget)
		}
		if len(f.samples) > 1 {
			p99 = number(f.quantile(0.99))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", f.name, f.unit, number(f.quantile(0.5)), p99, len(f.samples), budget, f.verdict())
	}
	t.Flush()
}

// number prints three significant digits, or all digits before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10 || v <= -10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
