package daemon

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/daemon/backup"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/store"
)

const someRecord = `{"format": 1, "version": "v1", "ranges": {"clusterCIDR": "10.244.0.0/16", "serviceCIDR": "10.96.0.0/16"}}`

// oneObject is the copy of a store with an object that is encrypted.
const oneObject = "\x02/a\x0e\x01\x01\x01\x00k8s:enc:xy"

// stoppedCluster is the data directory of a server that does not run.
func stoppedCluster(t *testing.T) instance.Instance {
	t.Helper()
	i := instance.Instance{DataDir: t.TempDir()}
	if err := i.PutBack([]byte(someRecord)); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(pki.Config{Dir: pkiDir(i)}); err != nil {
		t.Fatal(err)
	}
	if err := store.Fill(t.Context(), store.Config{Dir: storeDir(i)}, strings.NewReader(oneObject), 5); err != nil {
		t.Fatal(err)
	}
	return i
}

// namesIn are what a directory has; none if it is not there.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func refusedFor(t *testing.T, what string, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", what, err, text)
		}
	}
}

// What was restored is backed up as the same again, and is not written over.
func TestBackUpAndRestore(t *testing.T) {
	from, dir := stoppedCluster(t), t.TempDir()
	file := filepath.Join(dir, "b")
	h, _, err := BackUp(t.Context(), from, file, nil)
	if err != nil || h.Revision != 5 || h.Objects != 1 || h.Encrypted != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	// A disk is mounted there, an administrator has prepared it, and another restore was killed.
	to := instance.Instance{DataDir: filepath.Join(dir, "data")}
	for _, name := range []string{"lost+found", "registries", "restore.partial/store"} {
		if err := os.MkdirAll(filepath.Join(to.DataDir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Restore(t.Context(), to, file); err != nil || got != h {
		t.Fatalf("%+v, %v", got, err)
	}
	want := []string{"lost+found", "peapod.json", "pki", "registries", "server.lock", "store"}
	if got := namesIn(t, to.DataDir); !slices.Equal(got, want) {
		t.Errorf("there are %v", got)
	}
	old, err := pki.ReadShared(pkiDir(from))
	if err != nil {
		t.Fatal(err)
	}
	now, err := pki.ReadShared(pkiDir(to))
	if err != nil {
		t.Fatal(err)
	}
	for name := range old {
		if !bytes.Equal(now[name], old[name]) {
			t.Errorf("key %s is another", name)
		}
	}
	if ranges, made, err := to.Ranges(); err != nil || !made || ranges.String() != "10.244.0.0/16 10.96.0.0/16" {
		t.Errorf("%v, %v, %v", ranges, made, err)
	}
	if again, _, err := BackUp(t.Context(), to, file+"2", nil); err != nil || again.Revision != 5 || again.Objects != 1 {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = Restore(t.Context(), to, file)
	refusedFor(t, "a second restore", err, "has a cluster (store, pki, peapod.json)", "--data-dir", "peapod uninstall", "move store, pki, peapod.json elsewhere")
	before := namesIn(t, dir)
	_, err = Restore(t.Context(), instance.Instance{DataDir: dir}, file)
	refusedFor(t, "a restore among other files", err, "is not Peapod's", "(b, b2, data)")
	if now := namesIn(t, dir); !slices.Equal(now, before) {
		t.Errorf("that leaves %v", now)
	}
}

// Of a restore that is cut short there is nothing with which a server would begin anew.
func TestRestoreCutShort(t *testing.T) {
	from, dir := stoppedCluster(t), t.TempDir()
	file := filepath.Join(dir, "b")
	if _, _, err := BackUp(t.Context(), from, file, nil); err != nil {
		t.Fatal(err)
	}
	to := instance.Instance{DataDir: filepath.Join(dir, "data")}
	b, err := backup.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// Where the keys should go there is something already.
	if err := os.MkdirAll(filepath.Join(pkiDir(to), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	refusedFor(t, "restore", putBack(t.Context(), to, b), "put back "+pkiDir(to))
	if got := namesIn(t, to.DataDir); !slices.Equal(got, []string{"peapod.json", "pki"}) {
		t.Errorf("there are %v", got)
	}
	_, err = openOwnStore(t.Context(), to)
	refusedFor(t, "server", err, storeDir(to)+" is gone or empty", "peapod uninstall")
}

func TestBackUpOfNothing(t *testing.T) {
	write := func(i instance.Instance, name, text string) instance.Instance {
		if err := os.WriteFile(filepath.Join(i.DataDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return i
	}
	gone := stoppedCluster(t)
	if err := os.RemoveAll(storeDir(gone)); err != nil {
		t.Fatal(err)
	}
	shared := instance.Instance{DataDir: t.TempDir()}
	if err := (sharedRecord{ID: "x", Prefix: "/registry"}).write(shared); err != nil {
		t.Fatal(err)
	}
	damaged := write(stoppedCluster(t), "store/marker.manifest.000001.MANIFEST-000001", "")
	if err := os.Remove(filepath.Join(storeDir(damaged), "MANIFEST-000001")); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		i    instance.Instance
		want string
	}{
		"a new directory": {instance.Instance{DataDir: filepath.Join(t.TempDir(), "new")}, "no server has been started with it"},
		"an agent":        {write(instance.Instance{DataDir: t.TempDir()}, "agent.json", `{"server": "https://one:6443"}`), "an agent of https://one:6443"},
		"etcd":            {shared, "in etcd, below /registry: back them up with etcd's own snapshots"},
		"no store":        {gone, "is gone or empty: mount it"},
		"a damaged store": {damaged, "is damaged"},
	} {
		file := filepath.Join(t.TempDir(), "b")
		_, _, err := BackUp(t.Context(), test.i, file, nil)
		refusedFor(t, what, err, test.want)
		if left := namesIn(t, filepath.Dir(file)); len(left) > 0 {
			t.Errorf("%s: there are %v", what, left)
		}
	}
}

// A backup of which any part makes no sense leaves nothing behind.
func TestRestoreOfNothing(t *testing.T) {
	from := stoppedCluster(t)
	keys, err := pki.ReadShared(pkiDir(from))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := store.Read(t.Context(), store.Config{Dir: storeDir(from)})
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"server-ca": keys["client-ca"], "client-ca": []byte("key"), "service-account": keys["service-account"], "front-proxy-ca": keys["front-proxy-ca"]}
	for what, test := range map[string]struct {
		record string
		keys   map[string][]byte
		want   string
	}{
		"a key that is none":     {someRecord, bad, "client-ca of the cluster"},
		"a later release's":      {`{"format": 99, "version": "v9"}`, keys, "v9 (format 99)"},
		"one without addresses":  {`{"format": 1}`, keys, "no addresses"},
		"a record that is none":  {`[]`, keys, "what the data directory was"},
		"addresses that are not": {`{"format": 1, "ranges": {"clusterCIDR": "all", "serviceCIDR": "10.96.0.0/16"}}`, keys, "what the data directory was"},
	} {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "b"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(backup.Write(t.Context(), f, backup.Cluster{Record: []byte(test.record), Keys: test.keys}, objects), f.Close()); err != nil {
			t.Fatal(err)
		}
		_, err = Restore(t.Context(), instance.Instance{DataDir: filepath.Join(dir, "data")}, f.Name())
		refusedFor(t, what, err, "read backup "+f.Name(), test.want)
		if got := namesIn(t, dir); !slices.Equal(got, []string{"b"}) {
			t.Errorf("%s: there are %v", what, got)
		}
	}
}
