package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
)

// A data directory goes on with the objects that it began with, or says why not.
func TestSameStorage(t *testing.T) {
	withStore := instance.Instance{DataDir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(withStore.DataDir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := instance.Instance{DataDir: t.TempDir()}
	alone, shared := settled{Options: DefaultOptions()}, settled{Options: DefaultOptions()}
	alone.NodeName, shared.NodeName = "one", "one"
	shared.EtcdServers = []string{"https://10.0.0.9:2379"}
	elsewhere, renamed := shared, shared
	elsewhere.EtcdPrefix, renamed.NodeName = "/other", "two"
	was := sharedRecord{ID: "x", Prefix: "/registry", NodeName: "one"}
	for name, test := range map[string]struct {
		i    instance.Instance
		s    settled
		r    sharedRecord
		want string
	}{
		"new, alone":                   {fresh, alone, sharedRecord{}, ""},
		"new, shared":                  {fresh, shared, sharedRecord{}, ""},
		"alone again":                  {withStore, alone, sharedRecord{}, ""},
		"shared again":                 {fresh, shared, was, ""},
		"from its own store to etcd":   {withStore, shared, sharedRecord{}, "has a store of its own"},
		"from etcd to its own store":   {fresh, alone, was, "--etcd-servers is needed"},
		"to another place in etcd":     {fresh, elsewhere, was, `--etcd-prefix "/other": the objects of data directory`},
		"as another node than it was":  {fresh, renamed, was, `--node-name "two": this machine has joined as one`},
		"its own store, a new node":    {withStore, alone, sharedRecord{}, ""},
		"a server's directory, shared": {fresh, shared, was, ""},
	} {
		err := sameStorage(test.i, test.s, test.r)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	// An agent keeps out of a server's directory, whichever kind of server it is.
	if err := onlyAgent(withStore); err == nil {
		t.Error("an agent runs beside a store")
	}
	if err := was.write(fresh); err != nil {
		t.Fatal(err)
	}
	if err := onlyAgent(fresh); err == nil {
		t.Error("an agent runs in the directory of a server of several")
	}
	if got, err := readShared(fresh); err != nil || !reflect.DeepEqual(got, was) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEtcdOptions(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"": func(o *Options) {},
		"--etcd-cafile: has a meaning only with --etcd-servers":          func(o *Options) { o.EtcdCAFile = "ca" },
		"--token: has a meaning only with --etcd-servers":                func(o *Options) { o.Token = "0123456789abcdef" },
		`--etcd-prefix "registry": must begin with a slash`:              func(o *Options) { o.EtcdPrefix = "registry" },
		`--etcd-prefix "/registry/": must begin with a slash`:            func(o *Options) { o.EtcdPrefix = "/registry/" },
		"--etcd-compaction-interval -1s: must not be negative; 0 leaves": func(o *Options) { o.EtcdCompactionInterval = metav1.Duration{Duration: -time.Second} },
	} {
		o := DefaultOptions()
		change(&o)
		_, err := o.settle()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	o := DefaultOptions()
	o.EtcdCompactionInterval = metav1.Duration{}
	if got := o.etcd().CompactionInterval; got >= 0 {
		t.Errorf("no compaction is %s for the store", got)
	}
}

// The file's options hold where no flag says otherwise.
func TestEtcdOptionsInFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	const text = "etcdServers: [\"https://10.0.0.9:2379\"]\netcdPrefix: /file\netcdCompactionInterval: 1m\ntoken: from-the-file-it-is\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions()
	f := pflag.NewFlagSet("server", pflag.ContinueOnError)
	o.AddFlags(f)
	if err := errors.Join(f.Parse([]string{"--etcd-prefix=/flag"}), o.Load(file, f)); err != nil {
		t.Fatal(err)
	}
	if len(o.EtcdServers) != 1 || o.EtcdPrefix != "/flag" || o.EtcdCompactionInterval.Duration != time.Minute || o.Token != "from-the-file-it-is" {
		t.Errorf("got %+v", o)
	}
}

// Every command that takes the token finds it in the environment, where neither flag nor file has one and there is an etcd to use it with.
func TestTokenFromEnvironment(t *testing.T) {
	t.Setenv(TokenEnv, "from-the-environment")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--etcd-servers=https://10.0.0.9:2379"}, "from-the-environment"},
		{[]string{"--etcd-servers=https://10.0.0.9:2379", "--token=from-the-flag"}, "from-the-flag"},
		{nil, ""},
	} {
		o := DefaultOptions()
		f := pflag.NewFlagSet("server", pflag.ContinueOnError)
		o.AddEtcdFlags(f)
		if err := errors.Join(f.Parse(test.args), o.Load("", f)); err != nil || o.Token != test.want {
			t.Errorf("%v: got %q, %v, want %q", test.args, o.Token, err, test.want)
		}
	}
}

func TestServerToken(t *testing.T) {
	i := instance.Instance{DataDir: t.TempDir()}
	if _, err := serverToken(i, "short"); err == nil || strings.Contains(err.Error(), "short\"") {
		t.Errorf("a short token: %v", err)
	}
	if got, err := serverToken(i, ""); err != nil || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := keepToken(i, "0123456789abcdef"); err != nil {
		t.Fatal(err)
	}
	if got, err := serverToken(i, ""); err != nil || got != "0123456789abcdef" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A token that is changed opens nothing any more; a change that was interrupted is finished by the next, or by the server's start.
func TestRotatedToken(t *testing.T) {
	i := instance.Instance{DataDir: t.TempDir()}
	const old = "the token that was stolen"
	if _, err := RotateServerToken(t.Context(), i, DefaultOptions()); err == nil || !strings.Contains(err.Error(), "is not that of one of several servers") {
		t.Errorf("where there is no server of several: %v", err)
	}
	sealed, err := join.Seal(old, []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	next := newServerToken()
	if err := writeToken(nextTokenFile(i), next); err != nil {
		t.Fatal(err)
	}
	if err := keepToken(i, old); err != nil {
		t.Fatal(err)
	}
	if got, err := readToken(nextTokenFile(i)); got != "" || err != nil {
		t.Errorf("a token that was not used is kept: %q, %v", got, err)
	}
	changed, err := reseal(sealed, old, next)
	if err != nil {
		t.Fatal(err)
	}
	again, err := reseal(changed, old, next)
	if err != nil || !bytes.Equal(again, changed) {
		t.Errorf("the second time it is another, %v", err)
	}
	if _, err := join.Unseal(old, changed); !errors.Is(err, join.ErrWrongToken) {
		t.Errorf("the old token: %v", err)
	}
	if data, err := join.Unseal(next, changed); err != nil || string(data) != "keys" {
		t.Errorf("the new token: %q, %v", data, err)
	}
	if _, err := reseal(changed, old, newServerToken()); !errors.Is(err, join.ErrWrongToken) {
		t.Errorf("neither token fits: %v", err)
	}
	// The process ended after etcd had it, and before server-token did.
	first := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Open(pki.Config{Dir: first}); err != nil {
		t.Fatal(err)
	}
	data := clusterData{Port: DefaultOptions().Port}
	if data.Files, err = pki.ReadShared(first); err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err = join.Seal(next, content); err != nil {
		t.Fatal(err)
	}
	s := settled{Options: DefaultOptions()}
	if _, err := enterRotated(i, &s, filepath.Join(i.DataDir, "pki"), changed, join.ErrWrongToken); !errors.Is(err, join.ErrWrongToken) {
		t.Errorf("without a next token: %v", err)
	}
	if err := writeToken(nextTokenFile(i), next); err != nil {
		t.Fatal(err)
	}
	if got, err := enterRotated(i, &s, filepath.Join(i.DataDir, "pki"), changed, join.ErrWrongToken); err != nil || got != next {
		t.Errorf("with it: %q, %v", got, err)
	}
}
