// Package podspec holds what every kind with a Pod template shares: how a PodSpec and a PodTemplateSpec are defaulted,
// which of their fields are dropped, and how they are validated. Package pod adds what holds for Pods alone.
//
// Defaults, field paths and messages equal those of Kubernetes v1.37: clients match on them. Every function works on
// the object alone, without I/O.
package podspec
