package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// What the resolver of libc takes.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func (c *checker) checkDNSConfig(path *field.Path) field.ErrorList {
	d := c.spec.DNSConfig
	servers, searches := path.Child("nameservers"), path.Child("searches")
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(d.Nameservers) == 0 {
			return field.ErrorList{field.Required(servers,
				fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if d == nil {
		return nil
	}
	var errs field.ErrorList
	if len(d.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(servers, d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ip := range d.Nameservers {
		errs = append(errs, c.checkIP(ip, servers.Index(i))...)
	}
	if len(d.Searches) > maxSearches {
		errs = append(errs, field.Invalid(searches, d.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(searches, d.Searches,
			fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, domain := range d.Searches {
		if domain == "." {
			continue
		}
		domain = strings.TrimSuffix(domain, ".")
		errs = append(errs, v.Messages(validation.IsDNS1123SubdomainWithUnderscore(domain), domain, searches.Index(i))...)
	}
	for i, option := range d.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func (c *checker) checkHostAliases(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range c.spec.HostAliases {
		errs = append(errs, c.checkIP(alias.IP, path.Index(i).Child("ip"))...)
		for j, name := range alias.Hostnames {
			errs = append(errs, v.DNSSubdomain(name, path.Index(i).Child("hostnames").Index(j))...)
		}
	}
	return errs
}

// checkIP checks an address, which must be written in the canonical way unless it was there before.
func (c *checker) checkIP(ip string, path *field.Path) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, ip, true, c.tolerated.addresses)
}
