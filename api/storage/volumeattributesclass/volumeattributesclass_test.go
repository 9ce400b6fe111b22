package volumeattributesclass

import (
	"testing"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }
