package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
)

// nodeConfig is what a node must know of its cluster before it can run Pods: the server publishes it in a config map,
// agents keep a copy.
type nodeConfig struct {
	// Cluster and Service are the addresses of Pods and of Services.
	Cluster cidrs.List `json:"clusterCIDR"`
	Service cidrs.List `json:"serviceCIDR"`
	// Domain is the DNS domain of the cluster.
	Domain string `json:"clusterDomain"`
	// VNI tells the overlays of several clusters on one wire apart: 24 bits.
	VNI int `json:"vni"`
	// ClientCA, PEM, signs what the API server and others show to kubelets.
	ClientCA string `json:"clientCA"`
}

// The keys of the config map.
const (
	keyCluster  = "clusterCIDR"
	keyService  = "serviceCIDR"
	keyDomain   = "clusterDomain"
	keyVNI      = "overlayID"
	keyClientCA = "clientCA"
)

// vniOf derives the overlay's number from the pin of the cluster's authority, which no two clusters share.
func vniOf(pin string) int {
	b, err := hex.DecodeString(pin[:6])
	if err != nil {
		return 1
	}
	return max(1, int(b[0])<<16|int(b[1])<<8|int(b[2]))
}

// nodeConfig is this cluster's.
func (c *control) nodeConfig() nodeConfig {
	return nodeConfig{Cluster: c.ranges.Cluster, Service: c.ranges.Service, Domain: clusterDomain,
		VNI: vniOf(c.keys.ServerCA().Pin()), ClientCA: string(c.keys.ClientCA().CurrentCABundleContent())}
}

// ranges are the cluster's.
func (n nodeConfig) ranges() instance.Ranges {
	return instance.Ranges{Cluster: n.Cluster, Service: n.Service}
}

func (n nodeConfig) data() map[string]string {
	return map[string]string{keyCluster: n.Cluster.String(), keyService: n.Service.String(), keyDomain: n.Domain,
		keyVNI: strconv.Itoa(n.VNI), keyClientCA: n.ClientCA}
}

// parseNodeConfig reads what data wrote.
func parseNodeConfig(data map[string]string) (n nodeConfig, err error) {
	fail := func(key string, err error) (nodeConfig, error) {
		return nodeConfig{}, fmt.Errorf("read %s of the cluster's node configuration: %w", key, err)
	}
	for key, to := range map[string]*cidrs.List{keyCluster: &n.Cluster, keyService: &n.Service} {
		if *to, err = cidrs.Parse(data[key]); err == nil && len(*to) == 0 {
			err = errors.New("it is missing")
		}
		if err != nil {
			return fail(key, err)
		}
	}
	if n.VNI, err = strconv.Atoi(data[keyVNI]); err != nil {
		return fail(keyVNI, err)
	}
	n.Domain, n.ClientCA = data[keyDomain], data[keyClientCA]
	return n, nil
}

// publishNodeConfig writes the config map where it is not as it should be.
func publishNodeConfig(ctx context.Context, client kubernetes.Interface, n nodeConfig) error {
	objects := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: bootstrap.NodeConfigMap}, Data: n.data()}
	old, err := objects.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = objects.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !maps.Equal(old.Data, want.Data):
		want.ResourceVersion = old.ResourceVersion
		_, err = objects.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish the cluster's node configuration: %w", err)
	}
	return nil
}
