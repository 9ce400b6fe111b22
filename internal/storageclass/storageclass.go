// Package storageclass says which class of storage is the default: the API server gives it to new claims, a controller to
// those that were made before there was one.
package storageclass

import (
	storagev1 "k8s.io/api/storage/v1"
)

// The annotations that make a class the default: today's, and the one of old that still counts.
const (
	DefaultAnnotation     = "storageclass.kubernetes.io/is-default-class"
	BetaDefaultAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// IsDefault says whether the class is marked as a default.
func IsDefault(c *storagev1.StorageClass) bool {
	return c.Annotations[DefaultAnnotation] == "true" || c.Annotations[BetaDefaultAnnotation] == "true"
}

// Default is the class for claims that name none: of those marked the newest, of those made at once the first by name. It is
// nil where none is marked.
func Default(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, c := range classes {
		switch {
		case !IsDefault(c):
		case best == nil, best.CreationTimestamp.Before(&c.CreationTimestamp),
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name:
			best = c
		}
	}
	return best
}
