package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/daemon/backup"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/version"
	"github.com/peapod/peapod/store"
)

// pkiDir has the server's keys and certificates.
func pkiDir(i instance.Instance) string { return filepath.Join(i.DataDir, "pki") }

// BackUp writes a backup of the cluster of i, whose objects are in a store of its own, to a new file at path. server is a connection to
// the server that runs, which takes it and serves on; nil where none runs. It returns what the backup is, and its size in bytes.
func BackUp(ctx context.Context, i instance.Instance, path string, server grpc.ClientConnInterface) (backup.Head, int64, error) {
	if err := ownObjects(i); err != nil {
		return backup.Head{}, 0, err
	}
	write := func(w io.Writer) error { return backUpStopped(ctx, i, w) }
	if server != nil {
		write = func(w io.Writer) error { return backup.Fetch(ctx, server, w) }
	}
	return backup.Keep(path, write)
}

// ownObjects says whose the objects are, where they are not a server's own.
func ownObjects(i instance.Instance) error {
	agent, err := readAgent(i)
	if err != nil {
		return err
	}
	if agent.Server != "" {
		return fmt.Errorf("data directory %s belongs to an agent of %s: the cluster is backed up where the server runs", i.DataDir, agent.Server)
	}
	shared, err := readShared(i)
	if err == nil && shared.ID != "" {
		err = fmt.Errorf("the objects of data directory %s are in etcd, below %s: back them up with etcd's own snapshots, and copy pki/, shared.json and server-token", i.DataDir, shared.Prefix)
	}
	return err
}

// backUpStopped writes a backup of a cluster whose server does not run.
func backUpStopped(ctx context.Context, i instance.Instance, w io.Writer) (err error) {
	had, err := i.HadStore()
	if err != nil {
		return err
	}
	switch is, err := store.Exists(storeDir(i)); { // before the lock, for which the directory is made
	case err != nil:
		return err
	case had && !is:
		return fmt.Errorf("%s is gone or empty: mount it if it is a mount point, or restore a backup", storeDir(i))
	case !is:
		return noStore(i)
	}
	lock, err := i.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	objects, err := store.Read(ctx, store.Config{Dir: storeDir(i)})
	if err != nil {
		return err
	}
	return backUp(ctx, i, w, objects)
}

// backUp writes a backup of a cluster with these objects. The caller's process holds the lock of the data directory.
func backUp(ctx context.Context, i instance.Instance, w io.Writer, objects store.Snapshot) error {
	c := backup.Cluster{Head: backup.Head{Version: version.Peapod, Taken: time.Now().UTC().Truncate(time.Second)}}
	for o := range objects.All {
		if bytes.HasPrefix(o.Data, encrypted) {
			c.Head.Encrypted++
		}
	}
	var err error
	if c.Record, err = i.Record(); err != nil {
		return err
	}
	if c.Keys, err = pki.ReadShared(pkiDir(i)); err != nil {
		return err
	}
	return backup.Write(ctx, w, c, objects)
}

// serveBackups has a gRPC server send backups of a running server's cluster. Where that is in an etcd there are none.
func serveBackups(i instance.Instance, st storage) func(grpc.ServiceRegistrar) {
	return func(server grpc.ServiceRegistrar) {
		if own, ok := st.(local); ok {
			backup.Register(server, func(ctx context.Context, w io.Writer) error { return backUp(ctx, i, w, own.Snapshot()) })
		}
	}
}

// Restore puts the cluster of the backup at path into the data directory of i, which has none, and returns what the backup is. Nothing is
// made before all of the backup has been checked. When it returns nil everything is on disk; otherwise no server starts with what there is,
// and it may be called again, unless things were being put in their places: then it says that there is a cluster, and how to remove that.
func Restore(ctx context.Context, i instance.Instance, path string) (h backup.Head, err error) {
	b, err := backup.Open(path)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := errors.Join(instance.CheckRecord(b.Record), pki.CheckShared(b.Keys)); err != nil {
		return h, fmt.Errorf("read backup %s: %w", path, err)
	}
	if err := vacant(i); err != nil { // before the lock, as above
		return h, err
	}
	if err := i.CheckOwn(); err != nil {
		return h, err
	}
	lock, err := i.Lock()
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if err := vacant(i); err != nil {
		return h, err
	}
	return b.Head, putBack(ctx, i, b)
}

// vacant refuses a data directory that has objects or keys of a cluster. What there may be of its Pods stays: the server ends those that
// it does not know.
func vacant(i instance.Instance) error {
	var has []string
	for _, path := range []string{storeDir(i), pkiDir(i), i.RecordFile(), sharedFile(i), serverTokenFile(i), moveFile(i), i.AgentFile()} {
		_, err := os.Lstat(path)
		if err == nil {
			has = append(has, filepath.Base(path))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for a cluster in the data directory: %w", err)
		}
	}
	if len(has) == 0 {
		return nil
	}
	return fmt.Errorf("data directory %s has a cluster (%s): choose another --data-dir, remove that cluster with 'peapod uninstall', "+
		"or, to put back this one's objects and keys and keep its images and volumes, stop the server and move %s elsewhere",
		i.DataDir, strings.Join(has, ", "), strings.Join(has, ", "))
}

// putBack makes store, keys and record in a directory of their own, and puts them in their places in such an order that no server starts
// before the last is there: one that finds a record, and no store, says so and ends.
func putBack(ctx context.Context, i instance.Instance, b *backup.File) (err error) {
	dir := i.Restoring()
	if err := os.RemoveAll(dir); err != nil { // of one that was killed
		return fmt.Errorf("remove what is left of another restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := store.Fill(ctx, store.Config{Dir: filepath.Join(dir, "store")}, b.Objects(), b.Head.Revision); err != nil {
		return err
	}
	if err := pki.InstallShared(filepath.Join(dir, "pki"), b.Keys); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return err
	}
	if err := i.PutBack(b.Record); err != nil {
		return err
	}
	for _, place := range []string{pkiDir(i), storeDir(i)} {
		if err := os.Rename(filepath.Join(dir, filepath.Base(place)), place); err != nil {
			return fmt.Errorf("put back %s: %w", place, err)
		}
		if err := atomicfile.SyncDir(i.DataDir); err != nil {
			return err
		}
	}
	return nil
}
