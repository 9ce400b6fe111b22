// Package api lists the kinds that the system serves.
package api

import (
	"github.com/peapod/peapod/api/admissionregistration/mutatingadmissionpolicy"
	"github.com/peapod/peapod/api/admissionregistration/mutatingadmissionpolicybinding"
	"github.com/peapod/peapod/api/admissionregistration/mutatingwebhookconfiguration"
	"github.com/peapod/peapod/api/admissionregistration/validatingadmissionpolicy"
	"github.com/peapod/peapod/api/admissionregistration/validatingadmissionpolicybinding"
	"github.com/peapod/peapod/api/admissionregistration/validatingwebhookconfiguration"
	"github.com/peapod/peapod/api/apiregistration/apiservice"
	"github.com/peapod/peapod/api/apps/controllerrevision"
	"github.com/peapod/peapod/api/apps/daemonset"
	"github.com/peapod/peapod/api/apps/deployment"
	"github.com/peapod/peapod/api/apps/replicaset"
	"github.com/peapod/peapod/api/apps/statefulset"
	"github.com/peapod/peapod/api/authentication/selfsubjectreview"
	"github.com/peapod/peapod/api/authentication/tokenreview"
	"github.com/peapod/peapod/api/authorization/localsubjectaccessreview"
	"github.com/peapod/peapod/api/authorization/selfsubjectaccessreview"
	"github.com/peapod/peapod/api/authorization/selfsubjectrulesreview"
	"github.com/peapod/peapod/api/authorization/subjectaccessreview"
	"github.com/peapod/peapod/api/autoscaling/horizontalpodautoscaler"
	"github.com/peapod/peapod/api/batch/cronjob"
	"github.com/peapod/peapod/api/batch/job"
	"github.com/peapod/peapod/api/certificates/certificatesigningrequest"
	"github.com/peapod/peapod/api/certificates/clustertrustbundle"
	"github.com/peapod/peapod/api/certificates/podcertificaterequest"
	"github.com/peapod/peapod/api/coordination/lease"
	"github.com/peapod/peapod/api/core/binding"
	"github.com/peapod/peapod/api/core/componentstatus"
	"github.com/peapod/peapod/api/core/configmap"
	"github.com/peapod/peapod/api/core/endpoints"
	"github.com/peapod/peapod/api/core/event"
	"github.com/peapod/peapod/api/core/limitrange"
	"github.com/peapod/peapod/api/core/namespace"
	"github.com/peapod/peapod/api/core/node"
	"github.com/peapod/peapod/api/core/persistentvolume"
	"github.com/peapod/peapod/api/core/persistentvolumeclaim"
	"github.com/peapod/peapod/api/core/pod"
	"github.com/peapod/peapod/api/core/podtemplate"
	"github.com/peapod/peapod/api/core/replicationcontroller"
	"github.com/peapod/peapod/api/core/resourcequota"
	"github.com/peapod/peapod/api/core/secret"
	"github.com/peapod/peapod/api/core/service"
	"github.com/peapod/peapod/api/core/serviceaccount"
	"github.com/peapod/peapod/api/discovery/endpointslice"
	"github.com/peapod/peapod/api/dynamic/deviceclass"
	"github.com/peapod/peapod/api/dynamic/devicetaintrule"
	"github.com/peapod/peapod/api/dynamic/resourceclaim"
	"github.com/peapod/peapod/api/dynamic/resourceclaimtemplate"
	"github.com/peapod/peapod/api/dynamic/resourceslice"
	eventsevent "github.com/peapod/peapod/api/events/event"
	"github.com/peapod/peapod/api/flowcontrol/flowschema"
	"github.com/peapod/peapod/api/flowcontrol/prioritylevelconfiguration"
	"github.com/peapod/peapod/api/metrics/nodemetrics"
	"github.com/peapod/peapod/api/metrics/podmetrics"
	"github.com/peapod/peapod/api/networking/ingress"
	"github.com/peapod/peapod/api/networking/ingressclass"
	"github.com/peapod/peapod/api/networking/ipaddress"
	"github.com/peapod/peapod/api/networking/networkpolicy"
	"github.com/peapod/peapod/api/networking/servicecidr"
	"github.com/peapod/peapod/api/node/runtimeclass"
	"github.com/peapod/peapod/api/policy/poddisruptionbudget"
	"github.com/peapod/peapod/api/rbac/clusterrole"
	"github.com/peapod/peapod/api/rbac/clusterrolebinding"
	"github.com/peapod/peapod/api/rbac/role"
	"github.com/peapod/peapod/api/rbac/rolebinding"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/scheduling/priorityclass"
	"github.com/peapod/peapod/api/storage/csidriver"
	"github.com/peapod/peapod/api/storage/csinode"
	"github.com/peapod/peapod/api/storage/csistoragecapacity"
	"github.com/peapod/peapod/api/storage/storageclass"
	"github.com/peapod/peapod/api/storage/volumeattachment"
	"github.com/peapod/peapod/api/storage/volumeattributesclass"
)

// All returns every kind, group by group. A kind that is AliasOf another comes after it.
func All() []*resource.Declaration {
	events, autoscaler := event.Declaration(), horizontalpodautoscaler.Declaration()
	return []*resource.Declaration{
		binding.Declaration(),
		componentstatus.Declaration(),
		configmap.Declaration(),
		endpoints.Declaration(),
		events,
		limitrange.Declaration(),
		namespace.Declaration(),
		node.Declaration(),
		persistentvolume.Declaration(),
		persistentvolumeclaim.Declaration(),
		pod.Declaration(),
		podtemplate.Declaration(),
		replicationcontroller.Declaration(),
		resourcequota.Declaration(),
		secret.Declaration(),
		service.Declaration(),
		serviceaccount.Declaration(),

		mutatingadmissionpolicy.Declaration(),
		mutatingadmissionpolicybinding.Declaration(),
		mutatingwebhookconfiguration.Declaration(),
		validatingadmissionpolicy.Declaration(),
		validatingadmissionpolicybinding.Declaration(),
		validatingwebhookconfiguration.Declaration(),

		apiservice.Declaration(),

		selfsubjectreview.Declaration(),
		tokenreview.Declaration(),

		localsubjectaccessreview.Declaration(),
		selfsubjectaccessreview.Declaration(),
		selfsubjectrulesreview.Declaration(),
		subjectaccessreview.Declaration(),

		controllerrevision.Declaration(),
		daemonset.Declaration(),
		deployment.Declaration(),
		replicaset.Declaration(),
		statefulset.Declaration(),

		autoscaler,
		horizontalpodautoscaler.DeclarationV1(autoscaler),

		cronjob.Declaration(),
		job.Declaration(),

		certificatesigningrequest.Declaration(),
		clustertrustbundle.Declaration(),
		podcertificaterequest.Declaration(),

		lease.Declaration(),

		endpointslice.Declaration(),

		deviceclass.Declaration(),
		devicetaintrule.Declaration(),
		resourceclaim.Declaration(),
		resourceclaimtemplate.Declaration(),
		resourceslice.Declaration(),

		eventsevent.Declaration(events),

		flowschema.Declaration(),
		prioritylevelconfiguration.Declaration(),

		nodemetrics.Declaration(),
		podmetrics.Declaration(),

		ingress.Declaration(),
		ingressclass.Declaration(),
		ipaddress.Declaration(),
		networkpolicy.Declaration(),
		servicecidr.Declaration(),

		runtimeclass.Declaration(),

		poddisruptionbudget.Declaration(),

		clusterrole.Declaration(),
		clusterrolebinding.Declaration(),
		role.Declaration(),
		rolebinding.Declaration(),

		priorityclass.Declaration(),

		csidriver.Declaration(),
		csinode.Declaration(),
		csistoragecapacity.Declaration(),
		storageclass.Declaration(),
		volumeattachment.Declaration(),
		volumeattributesclass.Declaration(),
	}
}
