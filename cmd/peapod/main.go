// Command peapod is a Kubernetes cluster in one binary: see `peapod --help`.
package main

import (
	"os"

	"github.com/peapod/peapod/cli"
)

func main() { os.Exit(cli.Run(os.Args)) }
