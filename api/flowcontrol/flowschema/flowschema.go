// Package flowschema declares flowcontrol.apiserver.k8s.io/v1 FlowSchema: which requests are of one kind, and at which
// priority level they are served.
package flowschema

import (
	"cmp"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[flowcontrolv1.FlowSchema](resource.Declaration{
		GVK:         flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"),
		Plural:      "flowschemas",
		Status:      true,
		StatusAlone: true,
		Generation:  true,
	}, func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*flowcontrolv1.FlowSchema]       = kind{}
	_ resource.Validator[*flowcontrolv1.FlowSchema]       = kind{}
	_ resource.StatusValidator[*flowcontrolv1.FlowSchema] = kind{}
	_ resource.Printer[*flowcontrolv1.FlowSchema]         = kind{}
	_ resource.Ordered[*flowcontrolv1.FlowSchema]         = kind{}
)

// defaultPrecedence is that of a schema that names none.
const defaultPrecedence = 1000

// Default fills in the precedence.
func (kind) Default(obj *flowcontrolv1.FlowSchema) {
	if obj.Spec.MatchingPrecedence == 0 {
		obj.Spec.MatchingPrecedence = defaultPrecedence
	}
}

// Columns are those of `kubectl get flowschemas`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("PriorityLevel", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
		table.Text("MatchingPrecedence", doc["matchingPrecedence"]),
		table.Text("DistinguisherMethod", doc["distinguisherMethod"]),
		table.Age(),
		table.Text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
	}
}

// Row is one line of the table.
func (kind) Row(obj *flowcontrolv1.FlowSchema) ([]any, error) {
	distinguisher := table.None
	if m := obj.Spec.DistinguisherMethod; m != nil {
		distinguisher = string(m.Type)
	}
	missing := "?" // nobody has looked
	for _, c := range obj.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			missing = string(c.Status)
			break
		}
	}
	return []any{
		obj.Name, obj.Spec.PriorityLevelConfiguration.Name, int64(obj.Spec.MatchingPrecedence), distinguisher,
		table.Since(obj.CreationTimestamp), missing,
	}, nil
}

// Compare puts that schema first which a request is compared with first.
func (kind) Compare(a, b *flowcontrolv1.FlowSchema) int {
	return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
}
