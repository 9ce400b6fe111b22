// Package version says which release this is.
package version

import (
	"fmt"
	"runtime"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
)

// Peapod is the release, set by the build with -ldflags -X.
var Peapod = "v0.1.0-dev"

// Commit is the revision that the binary was built from, set by the build.
var Commit = ""

// Kubernetes is the version of the API that Peapod serves; clients compare themselves with it.
const Kubernetes = "v1.37.2"

// Served is Kubernetes, to be compared with. It does not change.
var Served = utilversion.MustParseSemantic(Kubernetes)

// Info is what /version answers. The build metadata behind the plus sign tells Peapod apart from upstream without
// changing how clients order the version (semver 2.0, item 10).
func Info() apimachineryversion.Info {
	return apimachineryversion.Info{
		Major: "1", Minor: "37", EmulationMajor: "1", EmulationMinor: "37",
		GitVersion: Kubernetes + "+peapod", GitCommit: Commit, GitTreeState: "clean", BuildDate: "1970-01-01T00:00:00Z",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: fmt.Sprintf("%s/%s", runtime.GOOS, runtime.GOARCH),
	}
}
