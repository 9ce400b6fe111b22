package daemon

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/peapod/peapod/daemon/join"
)

// AgentOptions are what a user may set of an agent.
type AgentOptions struct {
	// Server is the URL of the cluster's API, and Token what `peapod token create` printed. Both are needed to join, and
	// remembered afterwards.
	Server, Token string
	NodeOptions
	// InsecureRegistries are as a server's.
	InsecureRegistries []string
}

// DefaultAgentOptions are the options of `peapod agent` without flags.
func DefaultAgentOptions() AgentOptions { return AgentOptions{NodeOptions: defaultNodeOptions()} }

// settledAgent are options that have been checked, with what the machine remembers of its cluster.
type settledAgent struct {
	settled
	server *url.URL
	token  join.Token // zero: the machine has joined before
	record agentRecord
}

// settle checks every option against what the machine has joined.
func (o AgentOptions) settle(r agentRecord) (settledAgent, error) {
	a := settledAgent{record: r}
	so := DefaultOptions()
	so.NodeOptions, so.InsecureRegistries = o.NodeOptions, o.InsecureRegistries
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
