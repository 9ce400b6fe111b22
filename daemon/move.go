package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/peapod/peapod/apiserver/encryption"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/store"
	"github.com/peapod/peapod/store/etcd"
)

// storeDir has the objects of a server that keeps them itself, movedDir those that have been moved to etcd, as they were.
func storeDir(i instance.Instance) string { return filepath.Join(i.DataDir, "store") }
func movedDir(i instance.Instance) string { return storeDir(i) + ".moved" }

// moveFile names a move that has begun, so that it can be taken up again.
func moveFile(i instance.Instance) string { return storeDir(i) + ".move" }

// Moved says what MoveStore has done.
type Moved struct {
	// Objects is how many there were.
	Objects int
	// Left is where the store lies that nobody reads any more.
	Left string
}

// MoveStore moves a cluster of one server, which must not run, from the server's own store to an etcd that has nothing below the prefix.
// o are the options with which the server is to be started from then on. What is in the store stays there, beside. It can be repeated:
// until it has succeeded the server starts with its own store or says that a move was interrupted; afterwards it is an error. say is
// told what takes long.
func MoveStore(ctx context.Context, i instance.Instance, o Options, say func(string)) (m Moved, err error) {
	s, err := o.settle()
	if err != nil {
		return m, err
	}
	if len(s.EtcdServers) == 0 {
		return m, errors.New("--etcd-servers is needed: where are the objects to go?")
	}
	if err := movable(i); err != nil {
		return m, err
	}
	lock, err := i.Lock()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	used, err := usedPrefixes()
	if err != nil {
		return m, err
	}
	ranges, err := i.ClaimRanges(s.want, used)
	if err != nil {
		return m, err
	}
	sealed, err := encryption.New(ctx, s.EncryptionOptions, s.NodeName)
	if err != nil {
		return m, err
	}
	whole, err := store.Read(ctx, store.Config{Dir: storeDir(i)})
	if err != nil {
		return m, err
	}
	objects, rev := slices.Collect(whole.All), whole.Revision()
	if err := hasNode(objects, s.NodeName); err != nil {
		return m, err
	}
	entries, err := entriesOf(ctx, objects, s.EtcdPrefix, sealed)
	if err != nil {
		return m, err
	}
	st, err := etcd.Open(ctx, s.etcd())
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	id, err := moveID(i)
	if err != nil {
		return m, err
	}
	f, err := st.Fill(ctx, id)
	if err != nil {
		return m, err
	}
	say(fmt.Sprintf("Moving %d objects, after revision %d", len(entries), rev))
	if err := f.Pass(ctx, rev); err != nil {
		return m, err
	}
	if err := f.Put(ctx, entries); err != nil {
		return m, err
	}
	if err := f.Forget(ctx); err != nil {
		return m, err
	}
	if err := settleIn(ctx, st, i, &s, firstPart(ranges.Cluster), used); err != nil {
		return m, err
	}
	if err := f.Done(ctx); err != nil {
		return m, err
	}
	return Moved{len(entries), movedDir(i)}, nil
}

// noStore is what a verb about a server's own store says where there is none.
func noStore(i instance.Instance) error {
	return fmt.Errorf("data directory %s has no store: no server has been started with it; name the server's with --data-dir", i.DataDir)
}

// movable says why the data directory has nothing to move.
func movable(i instance.Instance) error {
	r, err := readShared(i)
	if err != nil {
		return err
	}
	_, err = os.Stat(storeDir(i))
	switch {
	case errors.Is(err, fs.ErrNotExist) && r.ID != "":
		return fmt.Errorf("the objects of data directory %s are in etcd already, below %s", i.DataDir, r.Prefix)
	case errors.Is(err, fs.ErrNotExist):
		return noStore(i)
	case err != nil:
		return fmt.Errorf("look for a store: %w", err)
	}
	if _, err := os.Lstat(movedDir(i)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s is in the way, where the store is to be set aside; remove it or give it another name", movedDir(i)))
	}
	return nil
}

// hasNode checks that the server's node is what the options call it: its Pods would be another node's.
func hasNode(objects []store.Stored, name string) error {
	const nodes = "/core/nodes/"
	var have []string
	for _, o := range objects {
		if node, ok := strings.CutPrefix(o.Key, nodes); ok {
			have = append(have, node)
		}
	}
	if len(have) > 0 && !slices.Contains(have, name) {
		return fmt.Errorf("--node-name %q: the cluster has no such node, but %s; give the name with which the server was started", name, strings.Join(have, ", "))
	}
	return nil
}

// encrypted is what stored bytes begin with that are.
var encrypted = []byte("k8s:enc:")

// entriesOf returns what is to lie in etcd. Encrypted objects are bound to the key that they lie under, which is another there.
func entriesOf(ctx context.Context, objects []store.Stored, prefix string, e *encryption.Encryption) ([]etcd.Entry, error) {
	entries := make([]etcd.Entry, len(objects))
	for i, o := range objects {
		entries[i] = etcd.Entry{Key: o.Key, Data: o.Data, Expires: o.Expires}
		if !bytes.HasPrefix(o.Data, encrypted) {
			continue
		}
		t := e.TransformerForResource(resourceOf(o.Key))
		if t == nil {
			return nil, fmt.Errorf("--encryption-provider-config is needed: %s is encrypted, and bound to its place in the store", o.Key)
		}
		plain, _, err := t.TransformFromStorage(ctx, o.Data, value.DefaultContext(o.Key))
		if err != nil {
			return nil, fmt.Errorf("decrypt %s: %w", o.Key, err)
		}
		if entries[i].Data, err = t.TransformToStorage(ctx, plain, value.DefaultContext(path.Join("/", prefix)+o.Key)); err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", o.Key, err)
		}
	}
	return entries, nil
}

// resourceOf says what lies under a key, which is /group/resource/...
func resourceOf(key string) schema.GroupResource {
	parts := strings.SplitN(key, "/", 4)
	if len(parts) < 3 {
		return schema.GroupResource{}
	}
	if parts[1] == "core" {
		parts[1] = ""
	}
	return schema.GroupResource{Group: parts[1], Resource: parts[2]}
}

// settleIn makes the server the first of the cluster in etcd. The last step is that its store has another name.
func settleIn(ctx context.Context, st *etcd.Store, i instance.Instance, s *settled, pods cidrs.List, used []netip.Prefix) error {
	var r sharedRecord
	if err := joinServers(ctx, st, i, s, &r, used); err != nil {
		return err
	}
	r.PodCIDRs = pods // those of the Pods that run
	if err := r.write(i); err != nil {
		return err
	}
	return leave(i)
}

// moveID returns the name of the move that goes on.
func moveID(i instance.Instance) (string, error) {
	b, err := os.ReadFile(moveFile(i))
	if err == nil {
		return string(b), nil
	}
	id := rand.Text()
	if errors.Is(err, fs.ErrNotExist) {
		err = atomicfile.Write(moveFile(i), []byte(id), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("note that the store is being moved: %w", err)
	}
	return id, nil
}

// leave gives the store the name of one that has been moved.
func leave(i instance.Instance) error {
	err := unix.Renameat2(unix.AT_FDCWD, storeDir(i), unix.AT_FDCWD, movedDir(i), unix.RENAME_NOREPLACE)
	if err != nil {
		return fmt.Errorf("set the store aside as %s: %w", movedDir(i), err)
	}
	return errors.Join(os.Remove(moveFile(i)), atomicfile.SyncDir(i.DataDir))
}
