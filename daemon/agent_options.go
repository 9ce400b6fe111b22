package daemon

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/pflag"

	"github.com/peapod/peapod/daemon/join"
)

// AgentOptions are what a user may set of an agent, by flag or in the configuration file, as a server's.
type AgentOptions struct {
	// Server is the URL of the cluster's API, and Token what `peapod token create` printed. Both are needed to join, and
	// remembered afterwards.
	Server string `json:"server,omitempty"`
	Token  string `json:"token,omitempty"`
	NodeOptions
}

// DefaultAgentOptions are the options of `peapod agent` without flags.
func DefaultAgentOptions() AgentOptions { return AgentOptions{NodeOptions: defaultNodeOptions()} }

// AddFlags adds a flag for each option. The defaults are what o says.
func (o *AgentOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Server, "server", o.Server, "address of the cluster's API, such as https://10.0.0.1:6443")
	f.StringVar(&o.Token, "token", o.Token, "token to join with (environment: "+TokenEnv+")")
	o.NodeOptions.AddFlags(f)
}

// Load overlays o with what the configuration file says, as Options.Load.
func (o *AgentOptions) Load(file string, given *pflag.FlagSet) error {
	return load(o, DefaultAgentOptions(), file, given)
}

// settledAgent are options that have been checked, with what the machine remembers of its cluster.
type settledAgent struct {
	settled
	server *url.URL
	token  join.Token // zero: the machine has joined before
	record agentRecord
}

// settle checks every option against what the machine has joined.
func (o AgentOptions) settle(r agentRecord) (settledAgent, error) {
	if !r.joined() {
		r = agentRecord{Server: r.Server, Pin: r.Pin} // of a try that came to nothing, which another may follow
		if o.Token != "" {
			r = agentRecord{}
		}
	}
	a := settledAgent{record: r}
	so := DefaultOptions()
	so.NodeOptions = o.NodeOptions
	var err error
	if a.settled, err = so.settle(); err != nil {
		return a, err
	}
	if r.NodeName != "" && r.NodeName != o.NodeName {
		return a, fmt.Errorf("--node-name %q: this machine has joined as %s; give that name, or run peapod uninstall first", o.NodeName, r.NodeName)
	}
	if o.Server == "" {
		o.Server = r.Server
	}
	if o.Server == "" {
		return a, errors.New("--server is needed to join: the address of the cluster's API, such as https://10.0.0.1:6443")
	}
	if a.server, err = join.ParseServer(o.Server); err != nil {
		return a, err
	}
	if o.Token != "" {
		if a.token, err = join.ParseToken(o.Token); err != nil {
			return a, fmt.Errorf("--token: %w", err)
		}
		if r.Pin != "" && r.Pin != a.token.Pin {
			return a, errors.New("--token: it is another cluster's than the one that this machine has joined; run peapod uninstall first")
		}
		a.record.Pin = a.token.Pin
	}
	if a.record.Pin == "" {
		return a, errors.New("--token is needed to join: run 'peapod token create' where the server runs")
	}
	a.record.Server, a.record.NodeName = a.server.String(), o.NodeName
	return a, nil
}
