package inprocess

import (
	"errors"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// sharing returns config for a caller that shares, and an HTTP client for it. Clients that cannot read what is shared must not have it.
func sharing(config *rest.Config) (*rest.Config, *http.Client, error) {
	c, ok := config.Transport.(*caller)
	if !ok {
		return nil, nil, errors.New("make a client that shares the server's objects: the config is none of an in-process transport")
	}
	config = rest.CopyConfig(config)
	config.Transport = &caller{t: c.t, as: c.as, shares: true}
	over, err := rest.HTTPClientFor(config)
	return config, over, err
}

// restClient makes a client of config's group version, whose watches share the server's objects where they can. view is what it sees of
// them; nil: all.
func restClient(config *rest.Config, view func(runtime.Object) (runtime.Object, error), over *http.Client) (*rest.RESTClient, error) {
	base, path, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	gv := *config.GroupVersion
	return rest.NewRESTClient(base, path, rest.ClientContentConfig{
		AcceptContentTypes: config.AcceptContentTypes, ContentType: config.ContentType, GroupVersion: gv,
		Negotiator: negotiator{runtime.NewClientNegotiator(config.NegotiatedSerializer, gv), view},
	}, config.RateLimiter, over)
}
