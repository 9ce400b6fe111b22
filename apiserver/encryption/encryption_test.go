package encryption_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kms "k8s.io/kms/pkg/service"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/encryption"
	"github.com/peapod/peapod/apiserver/servertest"
)

const text = "what-nobody-should-find"

// key is a provider with the key of that name.
func key(provider, name string) string {
	secret := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(name, 32)[:32]))
	return "  - " + provider + ": {keys: [{name: " + name + ", secret: " + secret + "}]}\n"
}

const identity = "  - identity: {}\n"

// config is the file with these providers for Secrets and for a kind that users define.
func config(providers ...string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"- resources: [secrets, widgets.example.com]\n  providers:\n" + strings.Join(providers, "")
}

func write(t *testing.T, file, content string) string {
	t.Helper()
	if file == "" {
		file = filepath.Join(t.TempDir(), "encryption.yaml")
	}
	next := file + ".new"
	if err := errors.Join(os.WriteFile(next, []byte(content), 0o600), os.Rename(next, file)); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs a server on fs whose store is encrypted as the configuration says; empty for not at all.
func start(t *testing.T, fs vfs.FS, content string) (*servertest.Server, kubernetes.Interface) {
	t.Helper()
	var o encryption.Options
	if content != "" {
		o.EncryptionProviderConfig = write(t, "", content)
	}
	e, err := encryption.New(t.Context(), o, "test")
	if err != nil {
		t.Fatal(err)
	}
	return run(t, fs, e)
}

func run(t *testing.T, fs vfs.FS, e *encryption.Encryption) (*servertest.Server, kubernetes.Interface) {
	t.Helper()
	s := servertest.New(t, fs, func(c *apiserver.Config) { c.Encryption = e })
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the server does not become ready")
	}
	return s, s.Client(t)
}

func create(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": text}}
	if _, err := c.CoreV1().Secrets("default").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// check reads a Secret all ways and fails unless it is whole.
func check(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	secrets := c.CoreV1().Secrets("default")
	if got, err := secrets.Get(ctx, name, metav1.GetOptions{}); err != nil || string(got.Data["k"]) != text {
		t.Errorf("get %s: %v, %v", name, got, err)
	}
	list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil || len(list.Items) != 1 || string(list.Items[0].Data["k"]) != text {
		t.Errorf("list %s: %v, %v", name, list, err)
	}
	w, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: "0", FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); e.Object == nil || string(e.Object.(*corev1.Secret).Data["k"]) != text {
		t.Errorf("watch %s: %+v", name, e)
	}
}

// rewrite writes all Secrets as they are, as `kubectl get secrets -A -o json | kubectl replace -f -` does.
func rewrite(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	list, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if _, err := c.CoreV1().Secrets(list.Items[i].Namespace).Update(t.Context(), &list.Items[i], metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// onDisk says whether any file of the store holds what.
func onDisk(t *testing.T, fs vfs.FS, what string) bool {
	t.Helper()
	names, err := fs.List("/store")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, name := range names {
		f, err := fs.Open(path.Join("/store", name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if !info.IsDir() {
			b := make([]byte, info.Size())
			if n, err := f.ReadAt(b, 0); n < len(b) && err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			read += len(b)
			if bytes.Contains(b, []byte(what)) {
				return true
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if read == 0 {
		t.Fatal("the store has no files")
	}
	return false
}

// TestEncrypted: a Secret is nowhere on the disk, other objects are as ever, and both are there after a restart.
func TestEncrypted(t *testing.T) {
	for _, provider := range []string{"aescbc", "aesgcm", "secretbox"} {
		t.Run(provider, func(t *testing.T) {
			fs := vfs.NewMem()
			s, c := start(t, fs, config(key(provider, "a"), identity))
			create(t, c, "s")
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"k": "plain-as-ever"}}
			if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			check(t, c, "s")
			s.Stop()
			if onDisk(t, fs, text) || !onDisk(t, fs, "k8s:enc:"+provider+":v1:a:") || !onDisk(t, fs, "plain-as-ever") {
				t.Error("not encrypted, or too much")
			}
			s, c = start(t, fs, config(key(provider, "a"), identity))
			check(t, c, "s")
			s.Stop()
		})
	}
}

// TestRotation: what was written before is read, and written with the first key when it is next written, even as it is.
func TestRotation(t *testing.T) {
	fs := vfs.NewMem()
	s, c := start(t, fs, "")
	create(t, c, "s")
	s.Stop()
	if !onDisk(t, fs, text) {
		t.Fatal("the test cannot find what is not encrypted")
	}
	for _, step := range []struct{ now, then []string }{
		{[]string{key("aesgcm", "a"), identity}, []string{key("aesgcm", "a")}},
		{[]string{key("secretbox", "b"), key("aesgcm", "a")}, []string{key("secretbox", "b")}},
		{[]string{identity, key("secretbox", "b")}, []string{identity}},
	} {
		s, c := start(t, fs, config(step.now...))
		before, err := c.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, c, "s")
		rewrite(t, c)
		after, err := c.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{})
		if err != nil || after.ResourceVersion == before.ResourceVersion {
			t.Errorf("%v: not written anew (%v)", step.now, err)
		}
		rewrite(t, c)
		if again, err := c.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}); err != nil || again.ResourceVersion != after.ResourceVersion {
			t.Errorf("%v: written without need (%v)", step.now, err)
		}
		s.Stop()
		s, c = start(t, fs, config(step.then...))
		check(t, c, "s")
		s.Stop()
	}
	s, c = start(t, fs, "")
	check(t, c, "s")
	s.Stop()
}

// TestKeyMissing: without the key a Secret cannot be read, changed or listed, the error says so in upstream's words, and with the key
// it is there again.
func TestKeyMissing(t *testing.T) {
	fs := vfs.NewMem()
	right := config(key("aesgcm", "a"))
	s, c := start(t, fs, right)
	create(t, c, "s")
	s.Stop()
	for _, test := range []struct{ config, want string }{
		{"", "identity transformer tried to read encrypted data"},
		{config(key("aesgcm", "b"), identity), "no matching key was found for the provided AES transformer"},
		{config(key("secretbox", "b")), "no matching prefix found"},
		{config(strings.Replace(key("aesgcm", "b"), "name: b", "name: a", 1)), "message authentication failed"},
	} {
		s, c := start(t, fs, test.config)
		secrets := c.CoreV1().Secrets("default")
		_, getErr := secrets.Get(t.Context(), "s", metav1.GetOptions{})
		_, listErr := secrets.List(t.Context(), metav1.ListOptions{})
		_, updateErr := secrets.Update(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.UpdateOptions{})
		for _, err := range []error{getErr, listErr, updateErr, secrets.Delete(t.Context(), "s", metav1.DeleteOptions{})} {
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != http.StatusInternalServerError || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q: %v", test.config, err)
			}
		}
		s.Stop()
	}
	s, c = start(t, fs, right)
	check(t, c, "s")
	s.Stop()
}

// TestReload: a change of the file counts when it has been read, and one that makes no sense does not.
func TestReload(t *testing.T) {
	fs, file := vfs.NewMem(), write(t, "", config(key("aesgcm", "a"), identity))
	e, err := encryption.New(t.Context(), encryption.Options{EncryptionProviderConfig: file, EncryptionProviderConfigAutomaticReload: true}, "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	s, c := run(t, fs, e)
	create(t, c, "s")
	write(t, file, "nonsense")
	create(t, c, "t")
	write(t, file, config(key("secretbox", "b"), key("aesgcm", "a")))
	// Which key is used is to be seen on the disk alone: writing until it is the new one waits for the event.
	for deadline := time.Now().Add(time.Minute); !onDisk(t, fs, "k8s:enc:secretbox:v1:b:"); rewrite(t, c) {
		if time.Now().After(deadline) {
			t.Fatal("the change of the file does not count")
		}
	}
	check(t, c, "s")
	check(t, c, "t")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.Stop()
	if onDisk(t, fs, text) {
		t.Error("not encrypted")
	}
}

// keyService is a key management service of version 2, which seals nothing but for what it is sent.
type keyService struct{ fail chan struct{} }

func (k keyService) Status(context.Context) (*kms.StatusResponse, error) {
	select {
	case <-k.fail:
		return nil, errors.New("the vault is locked")
	default:
		return &kms.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "1"}, nil
	}
}

func (k keyService) Encrypt(_ context.Context, _ string, data []byte) (*kms.EncryptResponse, error) {
	return &kms.EncryptResponse{Ciphertext: []byte(base64.StdEncoding.EncodeToString(data)), KeyID: "1"}, nil
}

func (k keyService) Decrypt(_ context.Context, _ string, r *kms.DecryptRequest) ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(r.Ciphertext))
}

// TestKMS: keys may come from a service, and a server whose service is out of order is not ready.
func TestKMS(t *testing.T) {
	dir, err := os.MkdirTemp("", "kms") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	service := keyService{make(chan struct{})}
	server := kms.NewGRPCService(socket, 10*time.Second, service)
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	t.Cleanup(func() { server.Close(); <-served })
	fs := vfs.NewMem()
	s, c := start(t, fs, config("  - kms: {apiVersion: v2, name: vault, endpoint: \"unix://"+socket+"\", timeout: 30s}\n"))
	create(t, c, "s")
	check(t, c, "s")
	if b, err := c.CoreV1().RESTClient().Get().AbsPath("/readyz/kms-providers").DoRaw(t.Context()); err != nil || string(b) != "ok" {
		t.Errorf("%s, %v", b, err)
	}
	s.Stop()
	if onDisk(t, fs, text) || !onDisk(t, fs, "k8s:enc:kms:v2:vault:") {
		t.Error("not encrypted")
	}
	close(service.fail)
	e, err := encryption.New(t.Context(), encryption.Options{EncryptionProviderConfig: write(t, "", config("  - kms: {apiVersion: v2, name: vault, endpoint: \"unix://"+socket+"\"}\n"))}, "test")
	if err == nil && e.Checks()[0].Check(httptest.NewRequest("GET", "/readyz", nil)) == nil {
		t.Error("ready with a service that is out of order")
	}
}

// TestCustomObjects: kinds that users define are encrypted, too.
func TestCustomObjects(t *testing.T) {
	fs := vfs.NewMem()
	s, c := start(t, fs, config(key("secretbox", "a")))
	post := func(path, body string) {
		t.Helper()
		if err := c.CoreV1().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/yaml").Body([]byte(body)).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition,
metadata: {name: widgets.example.com}, spec: {group: example.com, scope: Cluster, names: {plural: widgets, kind: Widget}, versions: [{name: v1, served: true, storage: true,
schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`)
	w, err := c.CoreV1().RESTClient().Get().AbsPath("/apis/apiextensions.k8s.io/v1/watch/customresourcedefinitions").Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	established := make([]byte, 0, 1<<16)
	for buf := make([]byte, 4096); !bytes.Contains(established, []byte(`"type":"Established"`)); {
		n, err := w.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		established = append(established, buf[:n]...)
	}
	_ = w.Close()
	post("/apis/example.com/v1/widgets", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, secret: `+text+`}`)
	got, err := c.CoreV1().RESTClient().Get().AbsPath("/apis/example.com/v1/widgets").DoRaw(t.Context())
	if err != nil || !bytes.Contains(got, []byte(text)) {
		t.Errorf("%s, %v", got, err)
	}
	s.Stop()
	if onDisk(t, fs, text) || !onDisk(t, fs, "k8s:enc:secretbox:v1:a:") {
		t.Error("not encrypted")
	}
}

// TestOptions: nothing is made of nothing, and what makes no sense is refused by the names of flag, file and field.
func TestOptions(t *testing.T) {
	if e, err := encryption.New(t.Context(), encryption.Options{}, "test"); e != nil || err != nil || e.Reloads() || e.Checks() != nil {
		t.Errorf("%v, %v", e, err)
	}
	bad := write(t, "", strings.Replace(config(key("aesgcm", "a")), "secret: ", "secret: AAAA", 1))
	for _, test := range []struct {
		o    encryption.Options
		want []string
	}{
		{encryption.Options{EncryptionProviderConfigAutomaticReload: true}, []string{"--encryption-provider-config-automatic-reload", "--encryption-provider-config"}},
		{encryption.Options{EncryptionProviderConfig: bad}, []string{"--encryption-provider-config", bad, "resources[0].providers[0].aesgcm.keys[0].secret"}},
		{encryption.Options{EncryptionProviderConfig: bad + "x"}, []string{bad + "x", "no such file"}},
	} {
		_, err := encryption.New(t.Context(), test.o, "test")
		for _, part := range test.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %v does not say %q", test.o, err, part)
			}
		}
	}
}
