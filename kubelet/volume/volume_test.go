package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/kubelet/pod"
)

func newManager(t *testing.T, objects ...runtime.Object) (*Manager, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	m := New(Config{Client: client, RootDir: t.TempDir(), Allocatable: func() v1.ResourceList { return nil },
		Event:    func(runtime.Object, string, string, string) {},
		NodeName: "n1", Node: func() (*v1.Node, error) {
			return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-1", Labels: map[string]string{v1.LabelHostname: "n1"}}}, nil
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := m.Adopt(context.Background(), nil); err != nil {
			t.Error(err)
		}
		if left, err := mountsBelow(m.cfg.RootDir); err != nil || len(left) > 0 {
			t.Errorf("mounts left behind: %v, %v", left, err)
		}
	})
	return m, client
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1", Labels: map[string]string{"a": "b"}},
		Spec: v1.PodSpec{ServiceAccountName: "default", Volumes: volumes, Containers: []v1.Container{{Name: "c"}}}}
	for _, v := range volumes {
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	return p
}

func configMap(name string, data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Data: data}
}

func configVolume(name string) v1.Volume {
	return v1.Volume{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: v1.LocalObjectReference{Name: name}, DefaultMode: ptr.To[int32](0o640)}}}
}

func TestConfigMapFollowsItsObject(t *testing.T) {
	m, client := newManager(t, configMap("cm", map[string]string{"key": "one", "gone": "x"}))
	p := podWith(configVolume("cm"))
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
	if err != nil || len(mounts) != 1 || !mounts[0].Readonly {
		t.Fatalf("mounts %v, %v", mounts, err)
	}
	dir := mounts[0].HostPath
	file := filepath.Join(dir, "key")
	if b, _ := os.ReadFile(file); string(b) != "one" {
		t.Fatalf("content %q", b)
	}
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	changed := watchDir(t, dir)
	if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), configMap("cm", map[string]string{"key": "two"}), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for b, _ := os.ReadFile(file); string(b) != "two"; b, _ = os.ReadFile(file) {
		changed()
	}
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 3 { // one version, ..data, key
			break
		}
		changed()
	}
	if err := m.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.podDir(p.UID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the Pod's directory is still there: %v", err)
	}
}

func TestDownwardAPIFollowsLabels(t *testing.T) {
	m, _ := newManager(t)
	p := podWith(v1.Volume{Name: "d", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
		{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}})
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	changed := watchDir(t, dir)
	p = p.DeepCopy()
	p.Labels["new"] = "label"
	m.Changed(p)
	for {
		if b, _ := os.ReadFile(filepath.Join(dir, "labels")); string(b) == "a=\"b\"\nnew=\"label\"" {
			return
		}
		changed()
	}
}

// watchDir returns a function that waits for the next change in dir.
func watchDir(t *testing.T, dir string) func() {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		if err != nil || n == 0 {
			t.Fatalf("nothing changed in %s: %v", dir, err)
		}
		if _, err := unix.Read(fd, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMissingConfigMapSaysWhenToTryAgain(t *testing.T) {
	m, client := newManager(t)
	p := podWith(configVolume("late"))
	err := m.Prepare(t.Context(), p)
	var retry *pod.RetryError
	if !errors.As(err, &retry) || err.Error() != `MountVolume.SetUp failed for volume "config" : configmap "late" not found` {
		t.Fatalf("error %v", err)
	}
	if _, err := client.CoreV1().ConfigMaps("ns").Create(t.Context(), configMap("late", map[string]string{"k": "v"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-retry.Ready:
	case <-time.After(30 * time.Second):
		t.Fatal("not told that the object appeared")
	}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestProjectedTokenAndSecretStayOffDisk(t *testing.T) {
	m, client := newManager(t, configMap("kube-root-ca.crt", map[string]string{"ca.crt": "PEM"}))
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		if r.Spec.BoundObjectRef.UID != "uid-1" {
			t.Errorf("token bound to %v", r.Spec.BoundObjectRef)
		}
		r.Status = authenticationv1.TokenRequestStatus{Token: "secret-token", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
		return true, r, nil
	})
	p := podWith(v1.Volume{Name: "api", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](3607)}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []v1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](2000)}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	for name, want := range map[string]string{"token": "secret-token", "ca.crt": "PEM", "namespace": "ns"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "token"), &st); err != nil || st.Uid != 1000 || st.Gid != 2000 || st.Mode&0o777 != 0o640 {
		t.Errorf("token belongs to %d:%d with mode %o (%v)", st.Uid, st.Gid, st.Mode&0o777, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("token lies on a file system of type %x (%v)", fs.Type, err)
	}
}

func TestEmptyDirInMemoryWithLimitAndGroup(t *testing.T) {
	m, _ := newManager(t)
	limit := *mustQuantity("1Mi")
	p := podWith(v1.Volume{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}},
		v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	for range 2 { // idempotent
		if err := m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	mem := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	if err := os.WriteFile(filepath.Join(mem, "big"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing past the limit: %v", err)
	}
	if mounts, _ := mountsBelow(mem); len(mounts) != 1 {
		t.Errorf("mounted %d times", len(mounts))
	}
	var st unix.Stat_t
	if err := unix.Stat(mem, &st); err != nil || st.Gid != 2000 || st.Mode&0o7777 != unix.S_ISVTX|unix.S_ISGID|0o777 {
		t.Errorf("tmpfs of group %d, mode %o (%v)", st.Gid, st.Mode, err)
	}
	if err := unix.Stat(m.volumeDir(p.UID, &p.Spec.Volumes[1]), &st); err != nil || st.Gid != 2000 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("directory of group %d, mode %o (%v)", st.Gid, st.Mode, err)
	}
}

func TestEmptyDirOfHugePages(t *testing.T) {
	const small, large = v1.ResourceHugePagesPrefix + "2Mi", v1.ResourceHugePagesPrefix + "1Gi"
	for _, test := range []struct {
		medium string
		asked  []v1.ResourceName
		size   int64 // of a page
		err    string
	}{
		{"HugePages", []v1.ResourceName{small}, 2 << 20, ""},
		{"HugePages-2Mi", []v1.ResourceName{small, large}, 2 << 20, ""},
		{"HugePages", []v1.ResourceName{small, large}, 0, "huge pages of several sizes"},
		{"HugePages", nil, 0, "no container requests such huge pages"},
		{"HugePages-1Gi", []v1.ResourceName{small}, 0, "no container requests such huge pages"},
		{"HugePages-x", []v1.ResourceName{small}, 0, "no size of a page"},
		{"Tape", nil, 0, "not supported by this node"},
	} {
		t.Run(fmt.Sprint(test.medium, test.asked), func(t *testing.T) {
			m, _ := newManager(t)
			p := podWith(v1.Volume{Name: "huge", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{
				Medium: v1.StorageMedium(test.medium), SizeLimit: mustQuantity("8Mi")}}})
			// An init container's pages are as good as a container's.
			p.Spec.InitContainers = []v1.Container{{Name: "init"}}
			for i, name := range test.asked {
				of := &[]*v1.Container{&p.Spec.InitContainers[0], &p.Spec.Containers[0]}[i%2].Resources
				of.Requests = v1.ResourceList{name: *mustQuantity("1Gi")}
			}
			for range 2 { // idempotent
				if err := m.Prepare(t.Context(), p); (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error is %v", err)
				}
			}
			if test.err != "" {
				return
			}
			dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
			if mounts, err := mountsBelow(dir); len(mounts) != 1 || err != nil {
				t.Errorf("mounted %d times (%v)", len(mounts), err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if st.Type != unix.HUGETLBFS_MAGIC || st.Bsize != test.size || int64(st.Blocks)*st.Bsize != 8<<20 {
				t.Errorf("file system %x of %d pages of %d bytes", st.Type, st.Blocks, st.Bsize)
			}
		})
	}
}

// A Pod that owns a volume plants links in it to reach the host's files through subPath.
func TestSubPathCannotLeaveTheVolume(t *testing.T) {
	m, _ := newManager(t)
	p := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	outside := t.TempDir()
	for name, target := range map[string]string{"absolute": outside, "relative": "../../../../../..", "chain": "absolute", "proc": "/proc/self/root"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := &p.Spec.Containers[0]
	for _, sub := range []string{"absolute", "relative", "chain", "proc", "absolute/new", "..", "a/../../b", "/etc"} {
		c.VolumeMounts[0].SubPath = sub
		if mounts, err := m.Mounts(t.Context(), p, c, nil); err == nil {
			t.Errorf("subPath %q was mounted from %v", sub, mounts)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("something was made outside: %v", entries)
	}
	c.VolumeMounts[0].SubPath = ""
	c.VolumeMounts[0].SubPathExpr = "$(POD)/logs"
	mounts, err := m.Mounts(t.Context(), p, c, map[string]string{"POD": "p"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mounts[0].HostPath, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p/logs/f")); err != nil {
		t.Errorf("the subpath is not the volume's: %v", err)
	}
	if _, err := m.Mounts(t.Context(), p, c, nil); err == nil || !strings.Contains(err.Error(), `missing value for "POD"`) {
		t.Errorf("expression with an unknown variable: %v", err)
	}
}

// TestSubPathHasTheModeOfTheVolume: what is made in a volume can be written by whom the volume can.
func TestSubPathHasTheModeOfTheVolume(t *testing.T) {
	m, _ := newManager(t)
	p := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	p.Spec.Containers[0].VolumeMounts[0].SubPath = "a/b"
	if _, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil); err != nil {
		t.Fatal(err)
	}
	var want unix.Stat_t
	for _, sub := range []string{"", "a", "a/b"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(m.volumeDir(p.UID, &p.Spec.Volumes[0]), sub), &st); err != nil {
			t.Fatal(err)
		}
		if sub == "" {
			want = st
		}
		if st.Mode != want.Mode || st.Gid != 2000 || st.Mode&unix.S_ISGID == 0 || st.Mode&0o777 != 0o777 {
			t.Errorf("%q: mode %o of group %d", sub, st.Mode, st.Gid)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, c := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{file, v1.HostPathFile, "hostPath type check failed: " + file + " is not a file"},
		{file, v1.HostPathFileOrCreate, ""},
		{file, v1.HostPathFile, ""},
		{file, v1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{filepath.Join(dir, "new"), v1.HostPathDirectoryOrCreate, ""},
		{"/dev/null", v1.HostPathCharDev, ""},
		{"/dev/null", v1.HostPathSocket, "hostPath type check failed: /dev/null is not a socket file"},
	} {
		err := checkHostPath(&v1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
		if got := errorText(err); got != c.want {
			t.Errorf("%s as %s: %q, want %q", c.path, c.kind, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func mustQuantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}
