// Package apiservice declares apiregistration.k8s.io/v1 APIService: who answers for one version of a group of kinds, this server or
// one behind a Service.
package apiservice

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[apiregistrationv1.APIService](resource.Declaration{
		GVK:             apiregistrationv1.SchemeGroupVersion.WithKind("APIService"),
		Plural:          "apiservices",
		Categories:      []string{"api-extensions"},
		Status:          true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &apiregistrationv1.APIServiceList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*apiregistrationv1.APIService]       = kind{}
	_ resource.CreatePreparer[*apiregistrationv1.APIService]  = kind{}
	_ resource.NameValidator                                  = kind{}
	_ resource.Validator[*apiregistrationv1.APIService]       = kind{}
	_ resource.StatusValidator[*apiregistrationv1.APIService] = kind{}
	_ resource.Printer[*apiregistrationv1.APIService]         = kind{}
)

// defaultPort is that of HTTPS.
const defaultPort = 443

// Default fills in the Service's port.
func (kind) Default(obj *apiregistrationv1.APIService) {
	if s := obj.Spec.Service; s != nil && s.Port == nil {
		s.Port = ptr.To[int32](defaultPort)
	}
}

// PrepareForCreate has what this server answers itself be available from the first moment.
func (kind) PrepareForCreate(_ context.Context, obj *apiregistrationv1.APIService) {
	if obj.Spec.Service == nil {
		helper.SetAPIServiceCondition(obj, helper.NewLocalAvailableAPIServiceCondition())
	}
}

// Columns are those of `kubectl get apiservices`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Service", "The reference to the service that hosts this API endpoint."),
		table.Text("Available", "Whether this service is available."),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *apiregistrationv1.APIService) ([]any, error) {
	service := "Local"
	if s := obj.Spec.Service; s != nil {
		service = s.Namespace + "/" + s.Name
	}
	available := string(apiregistrationv1.ConditionUnknown)
	if c := helper.GetAPIServiceConditionByType(obj, apiregistrationv1.Available); c != nil {
		available = string(c.Status)
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
	}
	return []any{obj.Name, service, available, table.Since(obj.CreationTimestamp)}, nil
}
