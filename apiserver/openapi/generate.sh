#!/bin/sh
# Regenerates zz_generated.openapi.go: the OpenAPI definitions of every Go type that the API serves or refers to. A
# package that is only referred to (batch/v1 refers to scheduling) must be listed too, or its references dangle; the
# test in this folder finds those.
set -eu
cd "$(dirname "$0")/../.."
boilerplate=$(mktemp)
trap 'rm -f "$boilerplate"' EXIT

api() { for p; do printf 'k8s.io/api/%s ' "$p"; done; }
meta() { for p; do printf 'k8s.io/apimachinery/pkg/%s ' "$p"; done; }

# shellcheck disable=SC2046 # the lists are meant to be split
GOFLAGS=-mod=mod go tool openapi-gen \
	--go-header-file "$boilerplate" \
	--output-dir apiserver/openapi \
	--output-pkg github.com/peapod/peapod/apiserver/openapi \
	--output-file zz_generated.openapi.go \
	--report-filename /dev/null \
	$(api admissionregistration/v1 apps/v1 authentication/v1 authorization/v1 autoscaling/v1 autoscaling/v2 batch/v1 \
		certificates/v1 coordination/v1 core/v1 discovery/v1 events/v1 flowcontrol/v1 networking/v1 node/v1 policy/v1 rbac/v1 \
		resource/v1 scheduling/v1 scheduling/v1alpha3 storage/v1) \
	$(meta api/resource apis/meta/v1 runtime util/intstr version) \
	k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 \
	k8s.io/kube-aggregator/pkg/apis/apiregistration/v1 \
	k8s.io/metrics/pkg/apis/metrics/v1beta1
