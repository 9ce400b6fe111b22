// Command bench measures a whole Peapod against its budgets: how fast it starts, how fast Pods run, what an idle node
// costs, what the API, the scheduler and DNS sustain, and how fast workloads, Services and single changes are followed.
// It needs root and the built binary, no registry and no other cluster; it makes
// clusters of its own in temporary data directories and removes them, also when it fails or is interrupted. `make bench`
// runs it.
//
// The load comes from this process, on the same processors: figures of throughput hold for server and clients together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// benchmark is one group of figures that are measured together.
type benchmark struct {
	name string
	run  func(ctx context.Context, s settings) ([]figure, error)
}

// benchmarks are run in this order, each on clusters of its own.
var benchmarks = []benchmark{
	{"start", measureStart},
	{"node", measureNode},
	{"api", measureAPI},
	{"workload", measureWorkload},
	{"react", measureReact},
	{"service", measureService},
	{"endpoint", measureEndpoint},
	{"dns", measureDNS},
	{"scheduler", measureScheduler},
}

// names are the names of all benchmarks.
func names() []string {
	all := make([]string, len(benchmarks))
	for i, b := range benchmarks {
		all[i] = b.name
	}
	return all
}

// settings are what the flags say.
type settings struct {
	// peapod is the binary to measure.
	peapod string
	// pods is how many Pods "at once" are; they fit on one node.
	pods int
	// settle is how long a node is left alone before it counts as idle, idle how long its CPU is then watched.
	settle, idle time.Duration
	// verbose passes the server's log on.
	verbose bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var s settings
	flag.StringVar(&s.peapod, "peapod", "bin/peapod", "the binary to measure")
	flag.IntVar(&s.pods, "pods", 100, "how many Pods to create at once")
	flag.DurationVar(&s.settle, "settle", 15*time.Second, "how long to leave a node alone before measuring it idle")
	flag.DurationVar(&s.idle, "idle", 30*time.Second, "how long to watch an idle node's CPU")
	flag.BoolVar(&s.verbose, "verbose", false, "pass the servers' logs on")
	only := flag.String("only", "", "comma-separated names of what to measure: "+strings.Join(names(), ", ")+" (default: all)")
	limit := flag.Duration("timeout", 20*time.Minute, "give up after this time")
	flag.Parse()
	if os.Geteuid() != 0 {
		return errors.New("a server makes containers and networks, which takes root: run it with sudo")
	}
	if err := chosen(*only); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	klog.SetLogger(klog.Logger{}) // client-go's warnings are no figures

	var figures []figure
	for _, b := range benchmarks {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), b.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s ...\n", b.name)
		got, err := b.run(ctx, s)
		figures = append(figures, got...)
		if err != nil {
			printTable(os.Stdout, figures)
			return fmt.Errorf("measure %s: %w", b.name, err)
		}
	}
	printTable(os.Stdout, figures)
	return nil
}

// chosen checks the value of -only.
func chosen(only string) error {
	if only == "" {
		return nil
	}
	for name := range strings.SplitSeq(only, ",") {
		if !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return b.name == name }) {
			return fmt.Errorf("-only %s: nothing to measure is called %q; there are %s", only, name, strings.Join(names(), ", "))
		}
	}
	return nil
}
