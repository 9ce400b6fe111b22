package userns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/critest"
)

func pod(uid string) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Spec.HostUsers = types.UID(uid), new(bool)
	return p
}

// write makes the files that say which IDs may be used.
func write(t *testing.T, passwd, users, groups string) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Passwd: filepath.Join(dir, "passwd"), SubUID: filepath.Join(dir, "subuid"), SubGID: filepath.Join(dir, "subgid")}
	for path, body := range map[string]string{f.Passwd: passwd, f.SubUID: users, f.SubGID: groups} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func open(t *testing.T, dir string, f Files, maxPods int64) *Ranges {
	t.Helper()
	r := New(Config{Dir: dir, Runtime: critest.New(), MaxPods: maxPods, Files: f})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	return r
}

func first(t *testing.T, r *Ranges, p *v1.Pod) uint32 {
	t.Helper()
	u, err := r.Of(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	if u.Mode != runtimeapi.NamespaceMode_POD || len(u.Uids) != 1 || len(u.Gids) != 1 || u.Uids[0].ContainerId != 0 ||
		u.Uids[0].Length != Length || u.Gids[0].HostId != u.Uids[0].HostId || u.Gids[0].Length != Length {
		t.Fatalf("user namespace %v", u)
	}
	return u.Uids[0].HostId
}

func TestRanges(t *testing.T) {
	f := write(t, "", "kubelet:131072:262144\nother:65536:65536\n", "kubelet:131072:262144\n")
	dir := filepath.Join(t.TempDir(), "userns")
	r := open(t, dir, f, 4)
	given := map[uint32]string{}
	for _, uid := range []string{"a", "b", "c", "d"} {
		at := first(t, r, pod(uid))
		if other, taken := given[at]; taken || at < 131072 || at >= 131072+262144 || at%Length != 0 {
			t.Fatalf("%s has %d, %s too", uid, at, other)
		}
		given[at] = uid
		if again := first(t, r, pod(uid)); again != at {
			t.Errorf("%s has %d, and then %d", uid, at, again)
		}
	}
	if _, err := r.Of(t.Context(), pod("e"), ""); err == nil || !strings.Contains(err.Error(), "could not find an empty slot to allocate a user namespace") {
		t.Errorf("a fifth of four: %v", err)
	}
	// A write that was cut short by a crash is no range.
	if err := os.WriteFile(filepath.Join(dir, ".f.123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, f, 4)
	for at, uid := range given {
		if after := first(t, r, pod(uid)); after != at {
			t.Errorf("%s had %d, and after a restart %d", uid, at, after)
		}
	}
	for range 2 { // it is idempotent
		if err := r.Release("b"); err != nil {
			t.Fatal(err)
		}
	}
	if at := first(t, r, pod("e")); given[at] != "b" {
		t.Errorf("e got %d", at)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 || len(r.Pods()) != 4 {
		t.Errorf("files %v %v, Pods %v", entries, err, r.Pods())
	}
	if u, err := r.Of(t.Context(), &v1.Pod{}, ""); err != nil || u.Mode != runtimeapi.NamespaceMode_NODE || len(u.Uids) != 0 {
		t.Errorf("a Pod with the machine's users has %v, %v", u, err)
	}
}

// TestBadFile: what cannot be read is not overlooked, for the range in it would be given away.
func TestBadFile(t *testing.T) {
	ok := `{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":0,"length":65536}]}`
	for want, bodies := range map[string][]string{
		"":                                     {ok},
		"invalid user namespace mappings file": {"{"},
		"invalid user namespace configuration": {strings.Replace(ok, "131072", "65537", 1)},
		"already taken":                        {ok, ok},
	} {
		dir := t.TempDir()
		for i, body := range bodies {
			if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := New(Config{Dir: dir}).Open()
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bodies, err, want)
		}
	}
}

func TestPool(t *testing.T) {
	for _, c := range []struct{ name, passwd, users, groups, want string }{
		{"absent", "", "", "", ""},
		{"of others", "kubelet:x:99:99::/:/bin/false\n", "me:100000:65536\n", "me:100000:65536\n", ""},
		{"by number", "kubelet:x:99:99::/:/bin/false\n", "99:65536:7208960\n", "kubelet:65536:7208960\n", ""},
		{"differ", "", "kubelet:65536:7208960\n", "kubelet:131072:7208960\n", "mismatched subuids and subgids"},
		{"users alone", "", "kubelet:65536:7208960\n", "", "mismatched subuids and subgids"},
		{"two lines", "", "kubelet:65536:65536\nkubelet:196608:65536\n", "kubelet:65536:65536\nkubelet:196608:65536\n", "mismatched subuids and subgids"},
		{"no multiple", "", "kubelet:100000:7208960\n", "kubelet:100000:7208960\n", "kubelet user assigned ID 100000 must be a multiple of 65536"},
		{"the machine's", "", "kubelet:0:7208960\n", "kubelet:0:7208960\n", "kubelet user assigned ID 0 must be a multiple of 65536 above 0"},
		{"odd length", "", "kubelet:65536:100000\n", "kubelet:65536:100000\n", "length 100000 is not a multiple"},
		{"too few", "", "kubelet:65536:65536\n", "kubelet:65536:65536\n", "not enough to support 110 pods"},
		{"too high", "", "kubelet:4294901760:65536\n", "kubelet:4294901760:65536\n", "end above"},
		{"no number", "", "kubelet:x:65536\n", "kubelet:x:65536\n", "is not NAME:FIRST:COUNT"},
	} {
		_, err := pool(write(t, c.passwd, c.users, c.groups), 110)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if s, err := pool(Files{Passwd: "/none", SubUID: "/none", SubGID: "/none"}, 110); err != nil || s != everything || s.first != Length {
		t.Errorf("without files: %v, %v", s, err)
	}
}

func TestUnsupported(t *testing.T) {
	r := open(t, t.TempDir(), Files{}, 110)
	for handler, want := range map[string]string{
		"plain": "RuntimeClass handler \"plain\" does not support user namespaces",
		"other": "the handler \"other\" is not known",
	} {
		if _, err := r.Of(t.Context(), pod("a"), handler); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("handler %s: %v", handler, err)
		}
	}
}
