package daemon

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/peapod/peapod/internal/version"
)

// tellBuild has metrics say which version runs, by which alerts tell that parts of a cluster are of different ones.
var tellBuild = sync.OnceFunc(func() {
	build := metrics.NewGaugeVec(&metrics.GaugeOpts{Name: "kubernetes_build_info", StabilityLevel: metrics.BETA,
		Help: "Always 1; the labels say from what this process was built, with what and for which platform."},
		[]string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"})
	legacyregistry.MustRegister(build)
	v := version.Info()
	build.WithLabelValues(v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, v.GoVersion, v.Compiler, v.Platform).Set(1)
})
