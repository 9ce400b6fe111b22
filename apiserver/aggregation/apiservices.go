package aggregation

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// apiServices reads, follows and writes APIServices. It is made from the types alone: kube-aggregator's clients, which come with a
// scheme and apply configurations of their own, are not needed for one kind.
type apiServices struct {
	*gentype.ClientWithList[*apiregistrationv1.APIService, *apiregistrationv1.APIServiceList]
	informer cache.SharedIndexInformer
}

func newAPIServices(config *rest.Config) (*apiServices, error) {
	scheme := runtime.NewScheme()
	if err := apiregistrationv1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register types of %s: %w", apiregistrationv1.SchemeGroupVersion, err)
	}
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &apiregistrationv1.SchemeGroupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client of APIServices: %w", err)
	}
	s := &apiServices{ClientWithList: gentype.NewClientWithList(
		"apiservices", client, runtime.NewParameterCodec(scheme), "",
		func() *apiregistrationv1.APIService { return &apiregistrationv1.APIService{} },
		func() *apiregistrationv1.APIServiceList { return &apiregistrationv1.APIServiceList{} },
		gentype.PrefersProtobuf[*apiregistrationv1.APIService]())}
	s.informer = cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return s.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return s.Watch(ctx, o)
		},
	}, &apiregistrationv1.APIService{}, 0, cache.Indexers{})
	return s, nil
}

// cached returns what is known of an APIService, read-only; nil if there is none.
func (s *apiServices) cached(name string) *apiregistrationv1.APIService {
	obj, ok, err := s.informer.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil // A store in memory does not fail.
	}
	return obj.(*apiregistrationv1.APIService)
}

// known returns all APIServices, read-only.
func (s *apiServices) known() []*apiregistrationv1.APIService {
	list := s.informer.GetStore().List()
	out := make([]*apiregistrationv1.APIService, len(list))
	for i, obj := range list {
		out[i] = obj.(*apiregistrationv1.APIService)
	}
	return out
}

// overtaken says that an object was changed or deleted meanwhile, of which there will be an event.
func overtaken(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }
