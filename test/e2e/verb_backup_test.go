package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// noting creates config maps and notes those that were acknowledged.
type noting struct {
	acks chan struct{} // has an element if there were any since it was last looked at

	mu   sync.Mutex
	made []string
}

// run writes, as one of several, until there is no server to answer.
func (n *noting) run(ctx context.Context, client kubernetes.Interface, writer int) {
	for i := 0; ; i++ {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("noted-%d-%d", writer, i)}, Data: map[string]string{"text": strings.Repeat("x", 1<<10)}}
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, m, metav1.CreateOptions{}); err != nil {
			return
		}
		n.mu.Lock()
		n.made = append(n.made, m.Name)
		n.mu.Unlock()
		select {
		case n.acks <- struct{}{}:
		default:
		}
	}
}

func (n *noting) noted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.made)
}

// await returns when so many more writes have been acknowledged.
func (n *noting) await(t *testing.T, more int) {
	t.Helper()
	enough := within(t, patience)
	for want := len(n.noted()) + more; len(n.noted()) < want; {
		select {
		case <-n.acks:
		case <-enough.Done():
			t.Fatal("the server takes no more writes")
		}
	}
}

const restored = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: peapod.local/hello:latest}]
---
apiVersion: v1
kind: Secret
metadata: {name: sealed}
stringData: {word: open sesame}
`

// A backup that is taken under writers has all that was acknowledged before. The machine is lost, and on another one the cluster goes on:
// with its objects, also those that are encrypted, its Pods, and those who knew it.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	rand.Read(key) // never fails
	keys := write(t, "encryption.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"+
		"- {resources: [secrets], providers: [{secretbox: {keys: [{name: one, secret: "+base64.StdEncoding.EncodeToString(key)+"}]}}]}\n")
	args := []string{"--encryption-provider-config", keys}
	o := newOwn(t, args...)
	s := o.space()
	s.awaitAccount()
	s.apply(restored)
	s.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	pod := strings.TrimSpace(s.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"))
	before := only(t, s.get(pod))
	token := strings.TrimSpace(s.kubectl("create", "token", "default"))
	config, err := os.ReadFile(o.Instance.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "peapod.tar")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := &noting{acks: make(chan struct{}, 1)}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() { n.run(ctx, o.client, w) })
	}
	n.await(t, 100)
	acknowledged := n.noted()
	verb(t, o.Cluster, "", "backup", file).want(t, "backup", 0, "Backed up", file, "of the objects are encrypted", "--encryption-provider-config")
	n.await(t, 50)
	seen, err := o.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	verb(t, o.Cluster, "", "backup", file).want(t, "a second backup to one file", 1, file+" is there already")
	verb(t, o.Cluster, "", "restore", file).want(t, "restore under a server", 1, "has a cluster (store, pki, peapod.json)", "peapod uninstall")
	o.killServer()
	cancel()
	writers.Wait()
	verb(t, o.Cluster, "", "backup", filepath.Join(dir, "stopped.tar")).want(t, "backup without a server", 0, "Backed up")
	verb(t, o.Cluster, "", "uninstall", "--yes").want(t, "uninstall", 0)
	for _, name := range []string{"peapod.tar", "stopped.tar"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("there are %v, %v", left, err)
	}

	c, err := cluster.New(cluster.Config{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { uninstall(t, c) })
	c.Port = o.Port // where those who knew the cluster look for it
	verb(t, c, "", "restore", file).want(t, "restore", 0, "Restored", c.Instance.DataDir, "--encryption-provider-config")
	if err := c.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Instance.Kubeconfig(), config, 0o600); err != nil { // the old one
		t.Fatal(err)
	}
	now := &own{Cluster: c, t: t, client: clientOf(t, c)}
	s = now.space()
	list, err := now.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range list.Items {
		there[m.Name] = true
	}
	for _, name := range acknowledged {
		if !there[name] {
			t.Errorf("%s was acknowledged before the backup began, and is gone", name)
		}
	}
	if len(list.Items) >= len(seen.Items) {
		t.Errorf("the backup has %d config maps: it was taken after all writes", len(list.Items))
	}
	equal(t, "the Secret", s.kubectl("get", "secret", "sealed", "-o", "go-template={{.data.word | base64decode}}"), "open sesame")
	s.awaitPod(pod, "started on the new machine", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready && p.Status.ContainerStatuses[0].ContainerID != before.ContainerID
	})
	contains(t, "who the old token is", s.kubectl("auth", "whoami", "--token", token, "--kubeconfig", anonymous(t, config)), "system:serviceaccount:default:default")
	// Who has seen more is told to look anew.
	w, err := now.client.CoreV1().ConfigMaps("default").Watch(within(t, patience), metav1.ListOptions{ResourceVersion: seen.ResourceVersion + "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("a watch from what is yet to come begins with %+v", e)
	}
}

// A server that has lost its store is backed up from memory, and the same machine goes on with that: its Pods run on all the time.
func TestBackupOfLostStore(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(counter)
	s.ready("counter")
	before := only(t, s.get("counter"))
	move := func(names ...string) {
		for _, name := range names {
			if err := os.Rename(filepath.Join(o.Instance.DataDir, name), filepath.Join(o.Instance.DataDir, name+".old")); err != nil {
				t.Fatal(err)
			}
		}
	}
	move("store")
	file := filepath.Join(t.TempDir(), "b")
	verb(t, o.Cluster, "", "backup", file).want(t, "backup", 0, "Backed up")
	o.killServer()
	verb(t, o.Cluster, "", "backup", file+"2").want(t, "backup without a server", 1, "is gone or empty", "restore a backup")
	verb(t, o.Cluster, "", "restore", file).want(t, "restore beside keys", 1, "has a cluster (pki, peapod.json)")
	move("pki", "peapod.json")
	verb(t, o.Cluster, "", "restore", file).want(t, "restore", 0, "Restored")
	o.restart()
	s.survived(o, "counter", before)
}

// anonymous is a client configuration without its user's credentials.
func anonymous(t *testing.T, config []byte) string {
	t.Helper()
	var kept []string
	for line := range strings.Lines(string(config)) {
		if !strings.Contains(line, "client-certificate-data") && !strings.Contains(line, "client-key-data") {
			kept = append(kept, line)
		}
	}
	return write(t, "anonymous.kubeconfig", strings.Join(kept, ""))
}

// What is no whole backup is refused, and nothing is made.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "whole")
	verb(t, shared.cluster, "", "backup", file).want(t, "backup", 0)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	c := unstarted(t)
	for name, content := range map[string][]byte{"cut": whole[:len(whole)/2], "flipped": flipped, "other": []byte("no backup"), "empty": nil} {
		verb(t, c, "", "restore", write(t, name, string(content))).want(t, "restore "+name, 1, name, "this is no backup, or not a whole one")
	}
	verb(t, c, "", "restore", filepath.Join(dir, "none")).want(t, "restore nothing", 1, "no such file")
	verb(t, c, "", "restore").want(t, "restore without a file", 1, "name one file: peapod restore FILE")
	verb(t, c, "", "backup").want(t, "backup without a file", 1, "name one file: peapod backup FILE")
	verb(t, c, "", "backup", filepath.Join(dir, "new")).want(t, "backup of nothing", 1, "no server has been started with it")
	verb(t, shared.cluster, "", "backup", filepath.Join(dir, "none", "b")).want(t, "backup to nowhere", 1, "no such file or directory")
	if _, err := os.Stat(c.Instance.DataDir); err == nil {
		t.Error("a refused restore made the data directory")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("there are %v, %v", left, err)
	}
}
