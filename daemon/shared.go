package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/apiserver/pkg/registry/generic"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/store"
	"github.com/peapod/peapod/store/etcd"
)

// storage is where the cluster's objects are: on this machine's disk, or in an etcd that several servers share.
type storage interface {
	// Decorator makes the API server's registries use it.
	Decorator() generic.StorageDecorator
	// Wait returns once what Decorator made serves.
	Wait(ctx context.Context) error
	// Ready returns why it serves nobody, nil if it does.
	Ready() error
	Close() error
}

var _ storage = (*etcd.Store)(nil)

// local is the storage on this machine, which metrics tell of until it is closed.
type local struct {
	*store.Store
	untold func()
}

// Close closes the store.
func (l local) Close() error {
	l.untold()
	return l.Store.Close()
}

// Wait returns at once: everything is in memory before Open returns.
func (local) Wait(context.Context) error { return nil }

// sharedRecord is what a server among several remembers.
type sharedRecord struct {
	// ID tells this data directory from all others.
	ID string `json:"id"`
	// Prefix is that of the cluster's keys in etcd.
	Prefix string `json:"etcdPrefix"`
	// NodeName and PodCIDRs are this machine's node and the addresses of its Pods.
	NodeName string     `json:"nodeName"`
	PodCIDRs cidrs.List `json:"podCIDR,omitzero"`
}

func sharedFile(i instance.Instance) string { return filepath.Join(i.DataDir, "shared.json") }

// readShared returns an empty record for a data directory that is no server's among several.
func readShared(i instance.Instance) (r sharedRecord, err error) {
	b, err := os.ReadFile(sharedFile(i))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", sharedFile(i), err)
	}
	return r, nil
}

func (r sharedRecord) write(i instance.Instance) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(sharedFile(i), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write what this server has joined: %w", err)
	}
	return nil
}

// sameStorage refuses to start with other objects than the data directory has had before: with none, that is, of its own.
func sameStorage(i instance.Instance, s settled, r sharedRecord) error {
	shared := len(s.EtcdServers) > 0
	_, err := os.Stat(storeDir(i))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for a store: %w", err)
	case err == nil && r.ID != "":
		return fmt.Errorf("the objects of data directory %s were being moved to etcd, below %s, when that was interrupted; run 'peapod store move' again", i.DataDir, r.Prefix)
	case err == nil && shared:
		return fmt.Errorf("--etcd-servers: data directory %s has a store of its own, whose objects are not in etcd; move them there with 'peapod store move', or choose another --data-dir", i.DataDir)
	case r.ID != "" && !shared:
		return fmt.Errorf("--etcd-servers is needed: the objects of data directory %s are in etcd, below %s", i.DataDir, r.Prefix)
	case r.ID != "" && r.Prefix != s.EtcdPrefix:
		return fmt.Errorf("--etcd-prefix %q: the objects of data directory %s are below %s", s.EtcdPrefix, i.DataDir, r.Prefix)
	case r.ID != "" && r.NodeName != s.NodeName:
		return fmt.Errorf("--node-name %q: this machine has joined as %s; give that name, or run peapod uninstall first", s.NodeName, r.NodeName)
	}
	return nil
}

// clusterKey names in etcd what the servers of one cluster have in common.
const clusterKey = "cluster"

// clusterData is what the servers of one cluster have in common. It lies in etcd, sealed with the servers' token.
type clusterData struct {
	Ranges instance.Ranges   `json:"ranges"`
	Port   int               `json:"port"`
	Files  map[string][]byte `json:"files"`
}

// joinServers makes this data directory one of a server of the cluster in etcd: the first makes the cluster, the others get
// its keys. It can be repeated. The cluster's ranges are put into s.
func joinServers(ctx context.Context, st *etcd.Store, i instance.Instance, s *settled, r *sharedRecord, used []netip.Prefix) error {
	token, err := serverToken(i, s.Token)
	if err != nil {
		return err
	}
	dir := pkiDir(i)
	sealed, made, err := st.Once(ctx, clusterKey, func() ([]byte, error) {
		if r.ID != "" {
			return nil, fmt.Errorf("etcd holds nothing below %s, but this server has had a cluster there: restore etcd from a backup, or run peapod uninstall first", s.EtcdPrefix)
		}
		if token == "" {
			token = newServerToken()
		}
		// Before anything is sealed with it: a token that is lost is a cluster that is lost.
		if err := keepToken(i, token); err != nil {
			return nil, err
		}
		return makeCluster(i, *s, token, dir, used)
	})
	if err != nil {
		return err
	}
	if !made {
		if token == "" {
			return fmt.Errorf("--token is needed: there is a cluster in etcd below %s; the token is in <data-dir>/server-token of each of its servers", s.EtcdPrefix)
		}
		err := enterCluster(s, token, dir, sealed)
		if errors.Is(err, join.ErrWrongToken) {
			token, err = enterRotated(i, s, dir, sealed, err)
		}
		if err != nil {
			return err
		}
	}
	if err := keepToken(i, token); err != nil {
		return err
	}
	if r.ID == "" {
		*r = sharedRecord{ID: rand.Text(), Prefix: s.EtcdPrefix, NodeName: s.NodeName}
		if err := r.write(i); err != nil {
			return err
		}
	}
	name := "server/" + s.NodeName
	holder, _, err := st.Once(ctx, name, func() ([]byte, error) { return []byte(r.ID), nil })
	if err == nil && string(holder) != r.ID {
		err = errors.Join(fmt.Errorf("--node-name %q: another server of the cluster has that name; choose one that no other has, or, if that server is gone for good, delete key %s from etcd",
			s.NodeName, st.Key(name)), os.Remove(sharedFile(i)))
	}
	return err
}

// makeCluster makes the keys of a new cluster and returns them sealed.
func makeCluster(i instance.Instance, s settled, token, dir string, used []netip.Prefix) ([]byte, error) {
	ranges, err := s.claimRanges(i, used)
	if err != nil {
		return nil, err
	}
	if _, err := pki.Open(pki.Config{Dir: dir}); err != nil {
		return nil, err
	}
	files, err := pki.ReadShared(dir)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(clusterData{Ranges: ranges, Port: s.Port, Files: files})
	if err != nil {
		return nil, err
	}
	return join.Seal(token, b)
}

// enterCluster puts the keys of the cluster into dir and its ranges into s.
func enterCluster(s *settled, token, dir string, sealed []byte) error {
	b, err := join.Unseal(token, sealed)
	if err != nil {
		return fmt.Errorf("--token: %w", err)
	}
	var data clusterData
	if err := json.Unmarshal(b, &data); err != nil {
		return fmt.Errorf("read the cluster's keys in etcd: %w", err)
	}
	if data.Port != s.Port {
		return fmt.Errorf("--port %d: the servers of this cluster serve on %d, and Service kubernetes can lead to one port only", s.Port, data.Port)
	}
	for _, f := range []struct {
		flag       string
		want, have cidrs.List
	}{{"cluster-cidr", s.want.Cluster, data.Ranges.Cluster}, {"service-cidr", s.want.Service, data.Ranges.Service}} {
		if len(f.want) > 0 && !f.want.Equal(f.have) {
			return fmt.Errorf("--%s %s: the cluster has %s; leave the flag out", f.flag, f.want, f.have)
		}
	}
	s.want = data.Ranges
	return pki.InstallShared(dir, data.Files)
}

// openOwnStore opens the data directory's store. One that is gone is not made anew: the node would end every Pod that the new one
// does not know.
func openOwnStore(ctx context.Context, i instance.Instance) (*store.Store, error) {
	dir := storeDir(i)
	had, err := i.HadStore()
	if err != nil {
		return nil, err
	}
	if is, err := store.Exists(dir); err != nil {
		return nil, err
	} else if had && !is {
		return nil, fmt.Errorf("%s is gone or empty, and this data directory has had a cluster there: restore it from a backup, mount it if it is a mount point, or run peapod uninstall to begin anew", dir)
	}
	st, err := store.Open(ctx, store.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	if err := i.NoteStore(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// openStorage opens where the objects are. With etcd this makes the server one of its cluster, for which used are the
// addresses that the machine uses.
func openStorage(ctx context.Context, i instance.Instance, s *settled, used []netip.Prefix) (storage, apiserver.Claims, error) {
	r, err := readShared(i)
	if err != nil {
		return nil, nil, err
	}
	if err := sameStorage(i, *s, r); err != nil {
		return nil, nil, err
	}
	if len(s.EtcdServers) == 0 {
		// Ranges that cannot be had are refused before there is a store. With others, the store says which they are.
		if _, err := s.claimRanges(i, used); err != nil {
			return nil, nil, err
		}
		st, err := openOwnStore(ctx, i)
		if err != nil {
			return nil, nil, fmt.Errorf("open store: %w", err)
		}
		return local{st, st.Tell()}, nil, nil
	}
	st, err := etcd.Open(ctx, s.etcd())
	if err != nil {
		return nil, nil, err
	}
	if err := joinServers(ctx, st, i, s, &r, used); err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	return st, st.Claims(), nil
}
