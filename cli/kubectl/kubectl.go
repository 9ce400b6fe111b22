// Package kubectl is k8s.io/kubectl whole, pointed at this machine's cluster.
package kubectl

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/peapod/peapod/cli/terminal"
	"github.com/peapod/peapod/daemon/instance"
)

// New is the verb as help shows it. It never runs: see Invoked.
func New() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [command]",
		Short:              "Control the cluster (the whole of kubectl)",
		DisableFlagParsing: true,
		Run:                func(*cobra.Command, []string) {},
	}
}

// Invoked recognises `peapod [--data-dir DIR] kubectl [--data-dir DIR] ...` and returns the data directory and kubectl's
// own arguments, the program's name first.
func Invoked(args []string) (dataDir string, rest []string, ok bool) {
	dataDir = terminal.DefaultDataDir()
	i := 1
	i = takeDataDir(args, i, &dataDir)
	if i >= len(args) || args[i] != "kubectl" {
		return "", nil, false
	}
	i = takeDataDir(args, i+1, &dataDir)
	return dataDir, append([]string{"kubectl"}, args[i:]...), true
}

// takeDataDir reads --data-dir at args[i] and returns where the rest begins.
func takeDataDir(args []string, i int, dir *string) int {
	if i >= len(args) {
		return i
	}
	if v, ok := strings.CutPrefix(args[i], "--data-dir="); ok {
		*dir = v
		return i + 1
	}
	if args[i] == "--data-dir" && i+1 < len(args) {
		*dir = args[i+1]
		return i + 2
	}
	return i
}

// Run is kubectl. It uses the cluster's administrator configuration unless KUBECONFIG or --kubeconfig name another one. Where there is
// none at all, what fails is followed by where to get one: kubectl alone would speak of a port that nobody listens on.
func Run(dataDir string, args []string) int {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		if i, err := instance.At(dataDir); err == nil {
			_, err := os.Stat(i.Kubeconfig())
			if err == nil || !outsideConfig() {
				os.Setenv(clientcmd.RecommendedConfigPathEnvVar, i.Kubeconfig())
			}
			if err != nil && !outsideConfig() {
				hint(i, args)
			}
		}
	}
	// kubectl's packages look at os.Args for plugins and for the command's name.
	os.Args = args
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     args,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50),
		IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	if err := cli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
	return 0
}

// hint has errors of kubectl be followed by what to do without a client configuration, unless args name one.
func hint(i instance.Instance, args []string) {
	if slices.ContainsFunc(args, func(a string) bool { return a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") }) {
		return
	}
	remedy := "start the cluster with 'peapod server', name its --data-dir, or set KUBECONFIG"
	if i.Program() == "agent" {
		remedy = "this machine is an agent: run kubectl where the server runs, or set KUBECONFIG to a copy of its admin.kubeconfig"
	}
	cmdutil.BehaviorOnFatal(func(msg string, code int) {
		if msg != "" {
			fmt.Fprintf(os.Stderr, "%s\npeapod: there is no %s: %s\n", strings.TrimSuffix(msg, "\n"), i.Kubeconfig(), remedy)
		}
		os.Exit(code)
	})
}

// outsideConfig says whether the user has a client configuration of their own.
func outsideConfig() bool {
	_, err := os.Stat(clientcmd.RecommendedHomeFile)
	return err == nil
}
