// Package quantity brings amounts of resources to the form in which they are kept.
package quantity

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// RoundUp makes thousandths the finest step of every amount in list, which it changes.
func RoundUp(list corev1.ResourceList) {
	for name, amount := range list {
		if !amount.RoundUp(resource.Milli) {
			list[name] = amount
		}
	}
}
