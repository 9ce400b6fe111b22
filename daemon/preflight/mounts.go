package preflight

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// checkMounts looks whether what a container mounts below dataDir reaches this machine, which drivers of volumes need.
func checkMounts(dataDir string) Finding {
	dir, err := filepath.EvalSymlinks(existing(dataDir))
	if err != nil {
		return Finding{Severity: Warning, Found: err.Error(), Fix: "choose another --data-dir"}
	}
	over, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return Finding{Severity: Warning, Found: err.Error(), Fix: "mount proc on /proc"}
	}
	var of *mountinfo.Info // the innermost, and of several at one place the last, which hides the others
	for _, m := range over {
		if of == nil || len(m.Mountpoint) >= len(of.Mountpoint) {
			of = m
		}
	}
	if of == nil {
		return Finding{Severity: Warning, Found: "no mount of " + dir + " in /proc/self/mountinfo", Fix: "mount proc on /proc"}
	}
	return sharing(of)
}

// sharing judges the mount that a data directory is on.
func sharing(m *mountinfo.Info) Finding {
	for field := range strings.FieldsSeq(m.Optional) {
		if strings.HasPrefix(field, "shared:") {
			return Finding{Found: m.Mountpoint + " is shared"}
		}
	}
	return Finding{Severity: Warning, Found: fmt.Sprintf("%s is not shared: CSI drivers and mountPropagation Bidirectional do not work", m.Mountpoint),
		Fix: "mount --make-rshared " + m.Mountpoint}
}
