package prioritylevelconfiguration

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// What every cluster is given is valid, and changed by no default.
func TestTheLevelsOfEveryClusterAreValid(t *testing.T) {
	for _, l := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		given := l.DeepCopy()
		kind{}.Default(given)
		if !equality.Semantic.DeepEqual(given, l) {
			t.Errorf("%s: defaulting changes it", l.Name)
		}
		if errs := (kind{}).Validate(t.Context(), given); len(errs) > 0 {
			t.Errorf("%s: %v", l.Name, errs)
		}
	}
}
