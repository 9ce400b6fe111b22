package endpointslice

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	machineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// Most of each that a slice may hold.
const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxTopology  = 16
	maxPorts     = 20000
	maxHints     = 8
)

// Validate checks a new slice.
func (kind) Validate(_ context.Context, obj *discoveryv1.EndpointSlice) field.ErrorList {
	return validate(obj, nil)
}

// ValidateUpdate keeps the address type. Addresses that a slice had may stay as they are written.
func (kind) ValidateUpdate(_ context.Context, obj, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validate(obj, old)
	return append(errs, machineryvalidation.ValidateImmutableField(obj.AddressType, old.AddressType,
		field.NewPath("addressType"))...)
}

func validate(obj, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := apivalidation.Enum(obj.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	before := map[string]bool{}
	if old != nil {
		for _, e := range old.Endpoints {
			for _, address := range e.Addresses {
				before[address] = true
			}
		}
	}
	path := field.NewPath("endpoints")
	if n := len(obj.Endpoints); n > maxEndpoints {
		errs = append(errs, field.TooMany(path, n, maxEndpoints))
	} else {
		for i := range obj.Endpoints {
			errs = append(errs, validateEndpoint(&obj.Endpoints[i], obj.AddressType, before, path.Index(i))...)
		}
	}
	return append(errs, validatePorts(obj.Ports, field.NewPath("ports"))...)
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, before map[string]bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if n := len(e.Addresses); n == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	} else if n > maxAddresses {
		errs = append(errs, field.TooMany(addresses, n, maxAddresses))
	}
	for i, address := range e.Addresses {
		errs = append(errs, validateAddress(address, kind, before[address], addresses.Index(i))...)
	}
	if e.NodeName != nil {
		errs = append(errs, apivalidation.DNSSubdomain(*e.NodeName, path.Child("nodeName"))...)
	}
	topology := path.Child("deprecatedTopology")
	if n := len(e.DeprecatedTopology); n > maxTopology {
		errs = append(errs, field.TooMany(topology, n, maxTopology))
	}
	errs = append(errs, apivalidation.Labels(e.DeprecatedTopology, topology)...)
	if e.Hostname != nil {
		errs = append(errs, apivalidation.DNSLabel(*e.Hostname, path.Child("hostname"))...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
	}
	return errs
}

// validateAddress checks an address of the slice's type; had says that the slice had it before.
func validateAddress(address string, kind discoveryv1.AddressType, had bool, path *field.Path) field.ErrorList {
	var before []string
	if had {
		before = []string{address}
	}
	var errs field.ErrorList
	switch kind {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIPForLegacyField(path, address, true, before)
		if len(errs) == 0 && netutils.IsIPv6String(address) != (kind == discoveryv1.AddressTypeIPv6) {
			errs = append(errs, field.Invalid(path, address, "must be an "+string(kind)+" address"))
		}
		errs = append(errs, apivalidation.EndpointIP(address, path)...)
	case discoveryv1.AddressTypeFQDN:
		errs = validation.IsFullyQualifiedDomainName(path, address)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if n := len(ports); n > maxPorts {
		return field.ErrorList{field.TooMany(path, n, maxPorts)}
	}
	var errs field.ErrorList
	names := sets.Set[string]{}
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				errs = append(errs, apivalidation.DNSLabel(*p.Name, at.Child("name"))...)
			}
			if names.Has(*p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(*p.Name)
		}
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, apivalidation.Supported(*p.Protocol, at.Child("protocol"),
				corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, apivalidation.QualifiedName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}

func validateHints(hints *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	zones := path.Child("forZones")
	if n := len(hints.ForZones); n > maxHints {
		return append(errs, field.TooMany(zones, n, maxHints))
	}
	seen := sets.Set[string]{}
	for i, z := range hints.ForZones {
		at := zones.Index(i).Child("name")
		if seen.Has(z.Name) {
			errs = append(errs, field.Duplicate(at, z.Name))
		}
		seen.Insert(z.Name)
		errs = append(errs, apivalidation.LabelValue(z.Name, at)...)
	}
	nodes := path.Child("forNodes")
	if n := len(hints.ForNodes); n > maxHints {
		return append(errs, field.TooMany(nodes, n, maxHints))
	}
	clear(seen)
	for i, node := range hints.ForNodes {
		at := nodes.Index(i).Child("name")
		if seen.Has(node.Name) {
			errs = append(errs, field.Duplicate(at, node.Name))
		}
		seen.Insert(node.Name)
		errs = append(errs, apivalidation.DNSSubdomain(node.Name, at)...)
	}
	return errs
}
