package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/cidrs"
)

// agentRecord is what an agent knows of its cluster without asking, so that it starts, and keeps its Pods, while the
// server is away. It is empty before the machine has joined.
type agentRecord struct {
	// Server is the URL of the API, Pin and CA by what it is believed.
	Server string `json:"server,omitempty"`
	Pin    string `json:"pin,omitempty"`
	CA     string `json:"ca,omitempty"`
	// Servers are the addresses of all the cluster's servers, as last heard.
	Servers []string `json:"servers,omitempty"`
	// NodeName is the node that this machine is.
	NodeName string `json:"nodeName,omitempty"`
	// PodCIDRs are the addresses of its Pods.
	PodCIDRs cidrs.List `json:"podCIDR,omitzero"`
	// Config is the cluster's, as last read; nil before.
	Config *nodeConfig `json:"config,omitempty"`
}

// joined says that the machine is a node of the cluster; before, nothing here depends on it.
func (r agentRecord) joined() bool { return len(r.PodCIDRs) > 0 }

// trusts says whether a server can be believed by what is known: there is an authority, and its certificate is not over.
func (r agentRecord) trusts(now time.Time) bool {
	authority, err := cert.ParseCertsPEM([]byte(r.CA))
	return err == nil && now.Before(authority[0].NotAfter)
}

// readAgent returns an empty record for what is no agent's data directory.
func readAgent(i instance.Instance) (agentRecord, error) {
	b, err := os.ReadFile(i.AgentFile())
	if errors.Is(err, fs.ErrNotExist) {
		return agentRecord{}, nil
	}
	if err != nil {
		return agentRecord{}, fmt.Errorf("read what the agent has joined: %w", err)
	}
	var r agentRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return agentRecord{}, fmt.Errorf("read %s: %w; remove it and join again with --token", i.AgentFile(), err)
	}
	return r, nil
}

func (r agentRecord) write(i instance.Instance) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(i.AgentFile(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write what the agent has joined: %w", err)
	}
	return nil
}

// onlyServer refuses to run a server where an agent keeps its state.
func onlyServer(i instance.Instance) error {
	r, err := readAgent(i)
	if err == nil && r.Server != "" {
		err = fmt.Errorf("data directory %s belongs to an agent of %s: run peapod agent, or choose another --data-dir", i.DataDir, r.Server)
	}
	return err
}

// onlyAgent refuses to run an agent where a server keeps its state.
func onlyAgent(i instance.Instance) error {
	server, err := readShared(i)
	if err == nil && server.ID == "" {
		_, err = os.Stat(filepath.Join(i.DataDir, "store"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("data directory %s belongs to a server: run peapod server, or choose another --data-dir", i.DataDir)
	}
	return err
}
