package apiserver

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/aggregation"
	"github.com/peapod/peapod/apiserver/openapi"
)

// aggregate makes the aggregation layer, if APIServices are among the kinds.
func (s *Server) aggregate(generic *genericapiserver.Config) error {
	if !slices.ContainsFunc(s.config.Kinds, func(d *resource.Declaration) bool { return d.GVK.Group == aggregation.Group }) {
		return nil
	}
	builtin := []schema.GroupVersion{apiextensionsv1.SchemeGroupVersion}
	var yielding []schema.GroupVersion
	for _, d := range s.config.Kinds {
		if gv := d.GVK.GroupVersion(); !slices.Contains(builtin, gv) {
			builtin = append(builtin, gv)
			if d.Yields {
				yielding = append(yielding, gv)
			}
		}
	}
	var err error
	s.aggregation, err = aggregation.New(aggregation.Config{
		Client: generic.LoopbackClientConfig, Builtin: builtin, Yielding: yielding, Custom: s.custom.Defined(),
		Discovery: generic.AggregatedDiscoveryGroupManager, Serializer: s.codecs, FrontProxy: s.config.FrontProxy,
	})
	if err != nil {
		return err
	}
	s.config.Gates = append(s.config.Gates,
		Gate{Name: "autoregister-completion", Open: s.aggregation.Registered()},
		Gate{Name: "poststarthook/kube-apiserver-autoregistration", Open: s.aggregation.Registered()},
		Gate{Name: "poststarthook/start-kube-aggregator-informers", Open: s.aggregating},
		Gate{Name: "poststarthook/apiservice-registration-controller", Open: s.aggregating},
		Gate{Name: "poststarthook/apiservice-status-local-available-controller", Open: s.aggregating},
		Gate{Name: "poststarthook/apiservice-status-remote-available-controller", Open: s.aggregating},
		// Documents are made when they are asked for.
		Gate{Name: "poststarthook/apiservice-openapi-controller", Open: s.installed})
	return nil
}

// elsewhere lists the group versions that other servers describe.
func (s *Server) elsewhere() []openapi.Elsewhere {
	if s.aggregation == nil {
		return nil
	}
	return s.aggregation.Elsewhere()
}
