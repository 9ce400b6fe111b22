package garbagecollector

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/peapod/peapod/internal/kindmapper"
)

// late is discovery that does not have a kind yet.
type late struct{ meta.ResettableRESTMapper }

func (late) Reset() {}

func (late) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return nil, &meta.NoKindMatchError{GroupKind: kind, SearchedVersions: versions}
}

// TestKindThatIsComing: an owner of a kind that is defined, and that discovery does not have yet, is looked for again; one of a kind or a
// version that nobody defines is left alone.
func TestKindThatIsComing(t *testing.T) {
	c := &Collector{graph: newGraph(), defined: map[schema.GroupKind][]string{{Group: "example.com", Kind: "Thing"}: {"v1"}},
		mapper: kindmapper.Mapper{ResettableRESTMapper: late{}}, metadata: metadatafake.NewSimpleMetadataClient(runtime.NewScheme())}
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	for _, test := range []struct {
		version, kind string
		again         bool
	}{{"v1", "Thing", true}, {"v2", "Thing", false}, {"v1", "Other", false}} {
		uid := types.UID(test.version + test.kind)
		c.graph.set(node{identity: identity{maps, "default", "owned by " + string(uid), "of-" + uid},
			owners: []metav1.OwnerReference{{APIVersion: "example.com/" + test.version, Kind: test.kind, Name: "owner", UID: uid}}})
		if err := c.consider(t.Context(), uid); (err != nil) != test.again {
			t.Errorf("%s %s: looked for again: %t, want %t (%v)", test.version, test.kind, err != nil, test.again, err)
		}
	}
}
