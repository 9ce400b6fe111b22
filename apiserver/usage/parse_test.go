package usage

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

var asked = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// page is what a kubelet says, shortened.
const page = `# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="web",namespace="shop",pod="web-1"} 2.5 1767322800500
container_cpu_usage_seconds_total{container="log",namespace="shop",pod="web-1"} 1e-09 1767322800600
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="web",namespace="shop",pod="web-1"} 1.048576e+06 1767322800500
container_memory_working_set_bytes{container="log",namespace="shop",pod="web-1"} 0 1767322800600
container_start_time_seconds{container="web",namespace="shop",pod="web-1"} 1.7673228e+09
container_swap_usage_bytes{container="web",namespace="shop",pod="web-1"} 7 1767322800500
node_cpu_usage_seconds_total 12.25 1767322801000
node_memory_working_set_bytes 2.5e+09
pod_cpu_usage_seconds_total{namespace="shop",pod="web-1"} 99 1767322800500
resource_scrape_error 0
`

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(page), asked)
	if err != nil {
		t.Fatal(err)
	}
	pod := types.NamespacedName{Namespace: "shop", Name: "web-1"}
	want := &answer{
		node: point{at: time.UnixMilli(1767322801000), cpu: 12_250_000_000, memory: 2_500_000_000, hasCPU: true, hasMemory: true},
		pods: map[types.NamespacedName]map[string]*point{pod: {
			"web": {start: time.Unix(1767322800, 0), at: time.UnixMilli(1767322800500), cpu: 2_500_000_000, memory: 1 << 20, hasCPU: true, hasMemory: true},
			"log": {at: time.UnixMilli(1767322800600), cpu: 1, hasCPU: true, hasMemory: true},
		}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(answer{}, point{})); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// TestParseLines: labels may come in any order and hold what is written with a backslash; what has no time was read when it was asked for;
// what is not of the format is an error.
func TestParseLines(t *testing.T) {
	a, err := parse(strings.NewReader(`container_cpu_usage_seconds_total{pod="a\"\\\nb", extra="}", container="c",namespace="n",} 3`+"\n"), asked)
	if err != nil {
		t.Fatal(err)
	}
	p := a.pods[types.NamespacedName{Namespace: "n", Name: "a\"\\\nb"}]["c"]
	if p == nil || p.cpu != 3e9 || !p.at.Equal(asked) || p.whole() {
		t.Errorf("got %+v of %v", p, a.pods)
	}
	for _, line := range []string{
		"node_cpu_usage_seconds_total", "node_cpu_usage_seconds_total ", "node_cpu_usage_seconds_total x", "node_cpu_usage_seconds_total 1 x",
		"node_cpu_usage_seconds_total 1 2 3", "node_cpu_usage_seconds_total -1", "node_cpu_usage_seconds_total NaN", "node_memory_working_set_bytes +Inf",
		`container_cpu_usage_seconds_total{pod="a`, `container_cpu_usage_seconds_total{pod="a"`, `container_cpu_usage_seconds_total{pod} 1`,
		`container_cpu_usage_seconds_total{pod="a\`, "node_cpu_usage_seconds_total " + strings.Repeat("1", mostLine),
	} {
		if a, err := parse(strings.NewReader(line+"\n"), asked); err == nil {
			t.Errorf("%.60q is taken for %+v", line, a)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(page)
	f.Add(`container_cpu_usage_seconds_total{pod="a\"\\\nb", extra="}"} 3 4`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parse(strings.NewReader(text), asked)
		if err != nil {
			return
		}
		for name, containers := range a.pods {
			for container, p := range containers {
				if p == nil {
					t.Errorf("%s has no point of container %q", name, container)
				}
			}
		}
	})
}
