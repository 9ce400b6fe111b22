// Package prioritylevelconfiguration declares flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration: how many requests
// of a level are served at once, and what becomes of the others.
package prioritylevelconfiguration

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[flowcontrolv1.PriorityLevelConfiguration](resource.Declaration{
		GVK:         flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
		Plural:      "prioritylevelconfigurations",
		Status:      true,
		StatusAlone: true,
		Generation:  true,
	}, func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*flowcontrolv1.PriorityLevelConfiguration]       = kind{}
	_ resource.Validator[*flowcontrolv1.PriorityLevelConfiguration]       = kind{}
	_ resource.StatusValidator[*flowcontrolv1.PriorityLevelConfiguration] = kind{}
	_ resource.Printer[*flowcontrolv1.PriorityLevelConfiguration]         = kind{}
)

// Defaults of what a level of limited requests does not say.
const (
	defaultShares           = 30
	defaultQueues           = 64
	defaultHandSize         = 8
	defaultQueueLengthLimit = 50
)

// Default fills in shares and queues.
func (kind) Default(obj *flowcontrolv1.PriorityLevelConfiguration) {
	number := func(field **int32, value int32) {
		if *field == nil {
			*field = ptr.To(value)
		}
	}
	if e := obj.Spec.Exempt; e != nil {
		number(&e.NominalConcurrencyShares, 0)
		number(&e.LendablePercent, 0)
	}
	l := obj.Spec.Limited
	if l == nil {
		return
	}
	number(&l.NominalConcurrencyShares, defaultShares)
	number(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		for field, value := range map[*int32]int32{
			&q.Queues: defaultQueues, &q.HandSize: defaultHandSize, &q.QueueLengthLimit: defaultQueueLengthLimit,
		} {
			if *field == 0 {
				*field = value
			}
		}
	}
}

// Columns are those of `kubectl get prioritylevelconfigurations`.
func (kind) Columns() []metav1.TableColumnDefinition {
	queuing := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
		table.Text("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
		table.Text("Queues", queuing["queues"]),
		table.Text("HandSize", queuing["handSize"]),
		table.Text("QueueLengthLimit", queuing["queueLengthLimit"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *flowcontrolv1.PriorityLevelConfiguration) ([]any, error) {
	var shares, queues, handSize, limit any = table.None, table.None, table.None, table.None
	if l := obj.Spec.Limited; l != nil {
		shares = int64(ptr.Deref(l.NominalConcurrencyShares, 0))
		if q := l.LimitResponse.Queuing; q != nil {
			queues, handSize, limit = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{obj.Name, string(obj.Spec.Type), shares, queues, handSize, limit, table.Since(obj.CreationTimestamp)}, nil
}
