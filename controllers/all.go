// Package controllers lists the controllers of a cluster. Each is one folder that speaks the Kubernetes API alone.
package controllers

import (
	"cmp"

	"github.com/peapod/peapod/controllers/attachdetach"
	"github.com/peapod/peapod/controllers/certificates"
	"github.com/peapod/peapod/controllers/clusterip"
	"github.com/peapod/peapod/controllers/clusterroleaggregation"
	"github.com/peapod/peapod/controllers/cronjob"
	"github.com/peapod/peapod/controllers/daemonset"
	"github.com/peapod/peapod/controllers/deployment"
	"github.com/peapod/peapod/controllers/devicetainteviction"
	"github.com/peapod/peapod/controllers/disruption"
	"github.com/peapod/peapod/controllers/endpoints"
	"github.com/peapod/peapod/controllers/endpointslice"
	"github.com/peapod/peapod/controllers/endpointslicemirroring"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/ephemeralvolume"
	"github.com/peapod/peapod/controllers/garbagecollector"
	"github.com/peapod/peapod/controllers/horizontalpodautoscaler"
	"github.com/peapod/peapod/controllers/job"
	"github.com/peapod/peapod/controllers/loadbalancer"
	"github.com/peapod/peapod/controllers/localpath"
	"github.com/peapod/peapod/controllers/namespace"
	"github.com/peapod/peapod/controllers/nodeipam"
	"github.com/peapod/peapod/controllers/nodelifecycle"
	"github.com/peapod/peapod/controllers/persistentvolume"
	"github.com/peapod/peapod/controllers/podcertificates"
	"github.com/peapod/peapod/controllers/podgc"
	"github.com/peapod/peapod/controllers/replicaset"
	"github.com/peapod/peapod/controllers/resourceclaim"
	"github.com/peapod/peapod/controllers/resourcequota"
	"github.com/peapod/peapod/controllers/rootca"
	"github.com/peapod/peapod/controllers/serviceaccount"
	"github.com/peapod/peapod/controllers/servicecidr"
	"github.com/peapod/peapod/controllers/statefulset"
	"github.com/peapod/peapod/controllers/tainteviction"
	"github.com/peapod/peapod/controllers/tokencleaner"
	"github.com/peapod/peapod/controllers/ttlafterfinished"
	"github.com/peapod/peapod/controllers/validatingadmissionpolicystatus"
	"github.com/peapod/peapod/controllers/volumeexpand"
	"github.com/peapod/peapod/controllers/volumeprotection"
)

// Controller is a row of All.
type Controller struct {
	// Name is the service account in kube-system as which it acts.
	Name string
	New  func(engine.Deps) (engine.Runner, error)
	// From is the component that its events come from, where upstream's do not bear its name.
	From string
}

// Source is the component that events of the controller come from.
func (c Controller) Source() string { return cmp.Or(c.From, c.Name) }

// All are the controllers in the order in which they start.
func All() []Controller {
	return []Controller{
		{serviceaccount.Name, serviceaccount.New, ""},
		{rootca.Name, rootca.New, ""},
		{rootca.BundleName, rootca.NewBundle, ""},
		{namespace.Name, namespace.New, ""},
		{garbagecollector.Name, garbagecollector.New, ""},
		{resourcequota.Name, resourcequota.New, ""},
		{nodelifecycle.Name, nodelifecycle.New, ""},
		{tainteviction.Name, tainteviction.New, tainteviction.Source},
		{podgc.Name, podgc.New, ""},
		{nodeipam.Name, nodeipam.New, ""},
		{certificates.Name, certificates.NewApprover, ""},
		{certificates.Name, certificates.NewSigner, ""},
		{certificates.Name, certificates.NewCleaner, ""},
		{podcertificates.Name, podcertificates.New, ""},
		{tokencleaner.Name, tokencleaner.New, ""},
		{deployment.Name, deployment.New, ""},
		{replicaset.Name, replicaset.New, ""},
		{replicaset.ReplicationName, replicaset.NewReplication, ""},
		{job.Name, job.New, ""},
		{cronjob.Name, cronjob.New, ""},
		{daemonset.Name, daemonset.New, ""},
		{statefulset.Name, statefulset.New, ""},
		{persistentvolume.Name, persistentvolume.New, "persistentvolume-controller"},
		{attachdetach.Name, attachdetach.New, ""},
		{localpath.Name, localpath.New, "peapod.io/local-path"},
		{volumeprotection.ClaimName, volumeprotection.NewClaims, ""},
		{volumeprotection.VolumeName, volumeprotection.NewVolumes, ""},
		{volumeprotection.AttributesName, volumeprotection.NewAttributes, ""},
		{ephemeralvolume.Name, ephemeralvolume.New, "ephemeral_volume"},
		{volumeexpand.Name, volumeexpand.New, "volume_expand"},
		{resourceclaim.Name, resourceclaim.New, "resource_claim"},
		{devicetainteviction.Name, devicetainteviction.New, ""},
		{disruption.Name, disruption.New, ""},
		{horizontalpodautoscaler.Name, horizontalpodautoscaler.New, ""},
		{ttlafterfinished.Name, ttlafterfinished.New, ""},
		{clusterroleaggregation.Name, clusterroleaggregation.New, ""},
		{validatingadmissionpolicystatus.Name, validatingadmissionpolicystatus.New, ""},
		{endpointslice.Name, endpointslice.New, ""},
		{endpoints.Name, endpoints.New, ""},
		{endpointslicemirroring.Name, endpointslicemirroring.New, ""},
		{loadbalancer.Name, loadbalancer.New, ""},
		{servicecidr.Name, servicecidr.New, servicecidr.Source},
		{clusterip.Name, clusterip.New, ""},
	}
}
