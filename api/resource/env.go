package resource

import (
	"context"
	"net/http"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Parent is the storage that a subresource is part of.
type Parent struct {
	// Main is the kind's own registry; Status, where the kind has one, is the view of it that writes status only.
	Main   *genericregistry.Store
	Status *genericregistry.Store
}

// Env is what a server offers to the kinds that need more than their own objects. Every member is set before the first
// request; the functions may block on the request's context.
type Env struct {
	// Store returns the registry of another stored kind, nil if the server has none of that name.
	Store func(schema.GroupResource) *genericregistry.Store
	// Authenticator checks the tokens in TokenReviews.
	Authenticator authenticator.Request
	// Authorizer and Rules answer the access reviews.
	Authorizer authorizer.Authorizer
	Rules      authorizer.RuleResolver
	// Tokens issues bound service-account tokens.
	Tokens TokenIssuer
	// Nodes reaches kubelets.
	Nodes NodeConnector
	// ServiceIPs hands out cluster IPs, NodePorts hands out node ports.
	ServiceIPs IPAllocator
	NodePorts  PortAllocator
	// Usage measures what nodes and Pods use; nil where no kubelets are reached.
	Usage Usage
	// Components are the parts of the control plane.
	Components []Component
}

// Component is a part of the control plane. Check returns why it is not well, and may ask for that.
type Component struct {
	Name  string
	Check func(context.Context) error
}

// Usage measures what nodes and Pods use.
type Usage interface {
	// Read returns what is known. While somebody asks that is what was measured last; else it is measured first, which takes seconds.
	Read(ctx context.Context) (Reading, error)
}

// Reading is what was measured. It is read-only.
type Reading interface {
	// Node fills in times and usage of a node; false: they are not known.
	Node(name string, into *metricsv1beta1.NodeMetrics) bool
	// Pod fills in times and containers of a Pod that is on a node; false: they are not known.
	Pod(node string, pod types.NamespacedName, into *metricsv1beta1.PodMetrics) bool
}

// TokenIssuer issues service-account tokens (KEP-1205). bound is the object that the token dies with, nil for the
// account alone. It returns the token and when it expires.
type TokenIssuer interface {
	Issue(ctx context.Context, account *corev1.ServiceAccount, bound *BoundObject, audiences []string, seconds int64) (token string, expires time.Time, err error)
	// DefaultAudiences is what a request that names none gets.
	DefaultAudiences() []string
}

// BoundObject is the object that a token is bound to, with the node where that object is a Pod on one.
type BoundObject struct {
	authenticationv1.BoundObjectReference
	NodeName string
	NodeUID  types.UID
}

// NodeConnector reaches the kubelet of a node at the address that the node has registered, with the server's client
// certificate, and nowhere else.
type NodeConnector interface {
	// Kubelet returns the base address of the node's kubelet and the transport that reaches it.
	Kubelet(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
	// Pods returns the transport with which the server reaches Pods and Services by address, for the proxy subresources.
	Pods() http.RoundTripper
}

// IPClaim is what a Service wants of an IPAllocator.
type IPClaim struct {
	// Owner is the Service; it need not be stored yet.
	Owner types.NamespacedName
	// Family is IPv4 or IPv6.
	Family corev1.IPFamily
	// IP is the address; any free one if empty.
	IP string
	// Dry says that the address is looked for, and not taken.
	Dry bool
}

// IPAllocator hands out cluster IPs.
type IPAllocator interface {
	// Allocate takes an address before its owner is stored. It is the owner's until it is released.
	Allocate(IPClaim) (string, error)
	// Hold makes sure, while the server starts, that what a stored Service has is taken.
	Hold(owner types.NamespacedName, ip string) error
	// Release gives back what the owner has; others' addresses, and what is none, it leaves alone.
	Release(owner types.NamespacedName, ip string)
	// Families lists the families that the cluster's service CIDRs have, the primary one first.
	Families() []corev1.IPFamily
}

// PortAllocator hands out node ports. A number is handed out once, whatever the protocol.
type PortAllocator interface {
	// Allocate takes port, or any free one if port is zero.
	Allocate(port int32) (int32, error)
	Release(port int32)
}
