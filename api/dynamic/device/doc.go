// Package device holds what the kinds of resource.k8s.io have in common: how devices, drivers and pools are named, how a claim
// says what it asks for, how devices are selected and configured, and what taints and binding conditions look like.
//
// Fields of features that are off in this version of Kubernetes are dropped before anything is checked, so the checks here do not
// know them: list attributes, derived attributes, compatibility groups, partition types, node-allocatable resources and skipped
// node operations.
package device
