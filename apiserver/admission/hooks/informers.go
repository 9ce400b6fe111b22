package hooks

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/core"
)

// ownInformers is a factory of informers that end with the plugin that they are for: a shared factory would not start them again, and
// keep the handlers of plugins that are gone. Only the namespaces are everybody's.
type ownInformers struct {
	informers.SharedInformerFactory
	everybodys informers.SharedInformerFactory
}

func (cfg Config) ownInformers() ownInformers {
	return ownInformers{informers.NewSharedInformerFactory(cfg.Client, 0), cfg.Informers}
}

// begin starts the informers that the plugin has asked for, until ctx ends.
func (o ownInformers) begin(ctx context.Context) { o.SharedInformerFactory.Start(ctx.Done()) }

// Core are everybody's informers.
func (o ownInformers) Core() core.Interface { return o.everybodys.Core() }

// ForResource has none: the source of policies then watches parameters with informers that it ends when no policy needs them any
// more. One from a factory would stand still once it had been ended, and be taken for alive by the next policy of its kind.
func (o ownInformers) ForResource(r schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("find informer of %s: parameters of policies are watched apart", r)
}
