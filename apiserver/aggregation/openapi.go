package aggregation

import (
	"context"
	"net/http"
	"strings"

	"github.com/peapod/peapod/apiserver/openapi"
)

var _ openapi.Elsewhere = (*backend)(nil)

// Elsewhere lists the group versions of the servers behind this one that are there.
func (a *Aggregator) Elsewhere() []openapi.Elsewhere {
	if a.routes.Load() == nil {
		return nil
	}
	var out []openapi.Elsewhere
	for _, b := range a.all() {
		if b.available.Load() {
			out = append(out, b)
		}
	}
	return out
}

// Root implements openapi.Elsewhere.
func (b *backend) Root() string { return strings.TrimPrefix(b.path(), "/") }

// Ask implements openapi.Elsewhere.
func (b *backend) Ask(ctx context.Context, path string, header http.Header) (int, http.Header, []byte, error) {
	a, err := b.get(ctx, path, header)
	if err != nil {
		return 0, nil, nil, err
	}
	return a.status, a.header, a.body, nil
}
