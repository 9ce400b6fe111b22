package flowschema

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// What every cluster is given is valid, and changed by no default.
func TestTheSchemasOfEveryClusterAreValid(t *testing.T) {
	for _, s := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		given := s.DeepCopy()
		kind{}.Default(given)
		if !equality.Semantic.DeepEqual(given, s) {
			t.Errorf("%s: defaulting changes it", s.Name)
		}
		if errs := (kind{}).Validate(t.Context(), given); len(errs) > 0 {
			t.Errorf("%s: %v", s.Name, errs)
		}
	}
}
