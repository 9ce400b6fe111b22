package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAppArmorProfile(t *testing.T) {
	localhost := func(name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	for _, test := range []struct {
		name     string
		security *runtimeapi.LinuxContainerSecurityContext
		hidden   bool // whether the kernel does not show its profiles
		asks     bool
		want     string
		err      string
	}{
		{name: "none"},
		{name: "field", security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("deny")}, asks: true, want: "deny"},
		{name: "field with prefix", security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("localhost/deny")}, asks: true, want: "deny"},
		{name: "old field", security: &runtimeapi.LinuxContainerSecurityContext{ApparmorProfile: "localhost/deny"}, asks: true, want: "deny"},
		{name: "new field before old", asks: true, want: "deny",
			security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("deny"), ApparmorProfile: "localhost/other"}},
		{name: "not loaded", security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("lost")}, asks: true, err: `"lost" is not loaded`},
		{name: "old field, not loaded", security: &runtimeapi.LinuxContainerSecurityContext{ApparmorProfile: "localhost/lost"}, asks: true, err: `"lost" is not loaded`},
		{name: "unknown whether loaded", security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("lost")}, hidden: true, asks: true, want: "lost"},
		{name: "old default", security: &runtimeapi.LinuxContainerSecurityContext{ApparmorProfile: "runtime/default"}},
		{name: "old unconfined", security: &runtimeapi.LinuxContainerSecurityContext{ApparmorProfile: "unconfined"}, want: "unconfined"},
		{name: "old nonsense", security: &runtimeapi.LinuxContainerSecurityContext{ApparmorProfile: "deny"}, err: `"deny": want`},
		{name: "privileged", security: &runtimeapi.LinuxContainerSecurityContext{Apparmor: localhost("lost"), Privileged: true}},
	} {
		in := testInput()
		in.Host.AppArmor = true
		if !test.hidden {
			in.AppArmorLoaded = []string{"other", "deny"}
		}
		in.Config.Linux.SecurityContext = test.security
		if got := AsksForAppArmor(in.Config); got != test.asks {
			t.Errorf("%s: asks for the loaded profiles: %t", test.name, got)
		}
		spec, err := Spec(in)
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error is %v", test.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", test.name, err)
		case spec.Process.ApparmorProfile != test.want:
			t.Errorf("%s: profile is %q, want %q", test.name, spec.Process.ApparmorProfile, test.want)
		}
	}
}

func TestReadAppArmorLoaded(t *testing.T) {
	got, err := ReadAppArmorLoaded(strings.NewReader("/usr/bin/man (enforce)\nname of (three) (complain)\nroot//hat (enforce)\n"))
	if want := []string{"/usr/bin/man", "name of (three)", "root//hat"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := ReadAppArmorLoaded(strings.NewReader("")); err != nil || got == nil {
		t.Errorf("of an empty list got %v, %v, want one that has no profile", got, err)
	}
	broken := errors.New("broken")
	if _, err := ReadAppArmorLoaded(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
}
