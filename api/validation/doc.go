// Package validation holds the checks that kinds have in common: names, labels, selectors, resource quantities,
// tolerations, ports, paths. Each takes a value and the path of its field and returns the errors, worded as Kubernetes
// words them, because clients and people match on the words.
package validation
