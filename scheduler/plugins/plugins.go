// Package plugins lists the scheduling rules. Each is one folder.
package plugins

import (
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
	"github.com/peapod/peapod/scheduler/plugins/nodeaffinity"
	"github.com/peapod/peapod/scheduler/plugins/nodedeclaredfeatures"
	"github.com/peapod/peapod/scheduler/plugins/nodeports"
	"github.com/peapod/peapod/scheduler/plugins/noderesources"
	"github.com/peapod/peapod/scheduler/plugins/nodevolumelimits"
	"github.com/peapod/peapod/scheduler/plugins/podaffinity"
	"github.com/peapod/peapod/scheduler/plugins/tainttoleration"
	"github.com/peapod/peapod/scheduler/plugins/topologyspread"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
	"github.com/peapod/peapod/scheduler/plugins/volumerestrictions"
	"github.com/peapod/peapod/scheduler/plugins/volumezone"
)

// All are the rules in the order in which they are asked: cheap ones first, and so that the reason which a node is turned
// down for is the one that upstream gives.
func All() []framework.Plugin {
	return []framework.Plugin{
		tainttoleration.Unschedulable{},
		tainttoleration.Plugin{},
		nodeaffinity.Plugin{},
		nodeports.Plugin{},
		noderesources.Fit{},
		volumerestrictions.Plugin{},
		nodevolumelimits.Plugin{},
		volumebinding.Plugin{},
		volumezone.Plugin{},
		dynamicresources.Plugin{},
		topologyspread.Plugin{},
		podaffinity.Plugin{},
		nodedeclaredfeatures.Plugin{},
		noderesources.Balanced{},
		noderesources.ImageLocality{},
	}
}
