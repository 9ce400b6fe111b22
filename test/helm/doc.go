// Package helm is no code: it is the module that the helm command of the end-to-end tests is built from. It stands apart from
// the module around it so that what Helm requires does not choose the versions that Peapod is made of; it names the same
// versions of what both use, so that Go compiles that once (a test in test/e2e/cluster compares them).
package helm
