package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// Access returns the usual deciders: client certificates of the cluster's authority and bearer tokens, which the API server
// reviews, for who asks; the API server's access reviews for what they may do. Answers are kept for a while, as long as
// upstream's kubelet keeps them.
func Access(client kubernetes.Interface, ca dynamiccertificates.CAContentProvider) (authenticator.Request, authorizer.Authorizer, error) {
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           10 * time.Second,
		WebhookRetryBackoff:                &backoff,
		CacheTTL:                           2 * time.Minute,
		ClientCertificateCAContentProvider: ca,
	}.New()
	if err != nil {
		return nil, nil, fmt.Errorf("make kubelet authenticator: %w", err)
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             5 * time.Minute,
		DenyCacheTTL:              30 * time.Second,
		WebhookRetryBackoff:       &backoff,
	}.New()
	if err != nil {
		return nil, nil, fmt.Errorf("make kubelet authorizer: %w", err)
	}
	return authn, authz, nil
}

// guard lets a request through to next if it is known who sends it and they may.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok, err := s.cfg.Authenticator.AuthenticateRequest(r)
		if err != nil { // nobody but the log is told: it may be the API server that is to blame
			klog.FromContext(r.Context()).Error(err, "Unable to authenticate the request due to an error")
		}
		if err != nil || !ok {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		if !plain(r.URL) {
			http.Error(w, "path must be canonical: no empty, dot or encoded-slash segments", http.StatusBadRequest)
			return
		}
		for _, a := range attributes(r, who.User, s.cfg.NodeName) {
			var decision authorizer.Decision
			decision, _, err = s.cfg.Authorizer.Authorize(r.Context(), a)
			if err == nil && decision == authorizer.DecisionAllow {
				// What identifies the caller is no business of what serves the request.
				r.Header.Del("Authorization")
				next.ServeHTTP(w, r.WithContext(withUser(r.Context(), who.User)))
				return
			}
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("Authorization error (user=%s): %v", who.User.GetName(), err), http.StatusInternalServerError)
			return
		}
		a := attributes(r, who.User, s.cfg.NodeName)[0]
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource=%s)", who.User.GetName(), a.GetVerb(), a.GetSubresource()), http.StatusForbidden)
	})
}

func withUser(ctx context.Context, u user.Info) context.Context { return request.WithUser(ctx, u) }

// plain says whether a path has one reading only: what is authorized is then what is served.
func plain(u *url.URL) bool {
	p := strings.TrimSuffix(u.Path, "/")
	if p == "" {
		return u.RawPath == "" || u.RawPath == "/"
	}
	return path.Clean(p) == p && strings.HasPrefix(p, "/") && !strings.Contains(strings.ToLower(u.EscapedPath()), "%2f")
}

// attributes says what the request asks for, in the order in which it may be allowed. Statistics, metrics and the node's logs
// have each a subresource; everything else is nodes/proxy, of which harmless parts can also be had alone (KEP-2862). A request that runs something in a container is a create,
// whatever its method: WebSockets open with GET.
func attributes(r *http.Request, u user.Info, node string) []authorizer.Attributes {
	verb := map[string]string{
		http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[r.Method]
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	subresources := []string{"proxy"}
	switch first {
	case "exec", "attach", "portForward", "run":
		verb = "create"
	case "metrics", "stats", "checkpoint":
		subresources = []string{first}
	case "logs":
		subresources = []string{"log"}
	case "healthz", "configz", "pods":
		subresources = []string{first, "proxy"}
	case "runningpods":
		subresources = []string{"pods", "proxy"}
	}
	out := make([]authorizer.Attributes, len(subresources))
	for i, sub := range subresources {
		out[i] = authorizer.AttributesRecord{
			User: u, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: sub, Name: node,
			ResourceRequest: true, Path: r.URL.Path,
		}
	}
	return out
}
