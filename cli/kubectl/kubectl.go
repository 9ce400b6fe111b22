// Package kubectl is k8s.io/kubectl whole, pointed at this machine's cluster.
package kubectl

import (
	"os"
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

// Run is kubectl. It uses the cluster's administrator configuration unless KUBECONFIG or --kubeconfig name another one.
func Run(dataDir string, args []string) int {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		if i, err := instance.At(dataDir); err == nil {
			if _, err := os.Stat(i.Kubeconfig()); err == nil || !outsideConfig() {
				os.Setenv(clientcmd.RecommendedConfigPathEnvVar, i.Kubeconfig())
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

// outsideConfig says whether the user has a client configuration of their own.
func outsideConfig() bool {
	_, err := os.Stat(clientcmd.RecommendedHomeFile)
	return err == nil
}
