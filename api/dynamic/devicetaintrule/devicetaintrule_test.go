package devicetaintrule

import (
	"testing"
	"time"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource/scenario"
)

// The present is a fixed time.
func TestScenarios(t *testing.T) {
	real := device.Now
	defer func() { device.Now = real }()
	device.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	scenario.Run(t, Declaration(), "testdata")
}
