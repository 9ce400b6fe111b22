// Command peapod is a Kubernetes cluster in one binary: see `peapod --help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/peapod/peapod/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args)
	stop()
	os.Exit(code)
}
