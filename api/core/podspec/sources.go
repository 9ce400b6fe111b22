package podspec

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateHostOrNetworkSource checks, of the sources of vol, those that a PersistentVolume may have too, at path, and says
// how many there are. Only one is allowed.
func ValidateHostOrNetworkSource(vol *corev1.Volume, path *field.Path) (n int, errs field.ErrorList) {
	host := source{"hostPath", "", vol.HostPath, func(p *field.Path) field.ErrorList { return HostPath(vol.HostPath, p) }}
	for _, s := range append([]source{host}, networkSources(vol, path)...) {
		if reflect.ValueOf(s.source).IsNil() {
			continue
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(s.name), MoreThanOneSource))
			continue
		}
		at := s.at
		if at == "" {
			at = s.name
		}
		errs = append(errs, s.check(path.Child(at))...)
	}
	return n, errs
}

// MoreThanOneSource is what is said of a volume's second source.
const MoreThanOneSource = "may not specify more than 1 volume type"
