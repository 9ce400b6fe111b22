package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// helmPackage is what the module test/helm requires Helm for.
const helmPackage = "helm.sh/helm/v4/cmd/helm"

// BuildHelm makes the real helm command from the module test/helm and returns its path, in .build of the module. The first
// time it takes half a minute of compilation beyond what building Peapod has compiled; then Go finds it done.
func BuildHelm(ctx context.Context) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".build", "helm")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", path, helmPackage)
	cmd.Dir = filepath.Join(root, "test", "helm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm: %w: %s", err, out)
	}
	return path, nil
}

// Helm is `helm args...` for this cluster and namespace, killed when ctx is done. It keeps its files in the cluster's
// directory.
func (c *Cluster) Helm(ctx context.Context, binary, namespace string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	home := filepath.Join(c.Dir, "helm")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Instance.Kubeconfig(), "HELM_NAMESPACE="+namespace, "HOME="+c.Dir,
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return cmd
}
