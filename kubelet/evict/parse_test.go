package evict

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestParseThresholds(t *testing.T) {
	got, err := ParseThresholds(Settings{Hard: map[string]string{"pid.available": "10%", "memory.available": "1Gi", "nodefs.available": "0%", "imagefs.available": "2.5%", "imagefs.inodesFree": "100%"}})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, th := range got {
		if err := th.validate(); err != nil {
			t.Error(err)
		}
		texts = append(texts, string(th.Signal)+"<"+th.String())
	}
	if s, want := strings.Join(texts, ","), "memory.available<1Gi,imagefs.available<2.5%,pid.available<10%"; s != want {
		t.Errorf("thresholds %s, want %s", s, want)
	}
	if got, err := ParseThresholds(Settings{Hard: map[string]string{}}); err != nil || got == nil || len(got) != 0 {
		t.Errorf("no thresholds: %v, %v", got, err)
	}
	for signal, value := range map[string]string{"memory": "1Gi", "memory.available": "-1", "nodefs.available": "101%", "imagefs.available": "NaN%", "pid.available": "many", "nodefs.inodesFree": "0"} {
		if got, err := ParseThresholds(Settings{Hard: map[string]string{signal: value}}); err == nil || !strings.Contains(err.Error(), signal) {
			t.Errorf("%s<%s: %v, %v", signal, value, got, err)
		}
	}
}

func TestParseSoftThresholds(t *testing.T) {
	got, err := ParseThresholds(Settings{
		Hard: map[string]string{"memory.available": "100Mi"}, Soft: map[string]string{"memory.available": "300Mi", "nodefs.available": "15%", "pid.available": "0%"},
		SoftGrace:      map[string]string{"memory.available": "1m30s", "nodefs.available": "2h", "imagefs.available": "1s"},
		MinimumReclaim: map[string]string{"memory.available": "0Mi", "nodefs.available": "5%"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, th := range got {
		if err := th.validate(); err != nil {
			t.Error(err)
		}
		texts = append(texts, fmt.Sprintf("%s<%s for %v reclaims %s", th.Signal, th.Amount, th.Grace, th.Reclaim))
	}
	want := "memory.available<100Mi for 0s reclaims 0; memory.available<300Mi for 1m30s reclaims 0; nodefs.available<15% for 2h0m0s reclaims 5%"
	if s := strings.Join(texts, "; "); s != want {
		t.Errorf("thresholds %s, want %s", s, want)
	}
	if got, err := ParseThresholds(Settings{}); err != nil || len(got) != len(DefaultThresholds()) {
		t.Errorf("defaults: %v, %v", got, err)
	}
	m := map[string]string{}
	one := func(signal, value string) map[string]string { return map[string]string{signal: value} }
	for want, bad := range map[string]Settings{
		"--eviction-soft: grace period must be specified for the soft eviction threshold memory.available":                          {Soft: one("memory.available", "1Gi"), SoftGrace: one("nodefs.available", "1s")},
		"--eviction-soft: unsupported eviction signal memory":                                                                       {Soft: one("memory", "1Gi")},
		"--eviction-soft-grace-period: unsupported eviction signal memory":                                                          {SoftGrace: one("memory", "1s")},
		"--eviction-soft-grace-period: memory.available=90: not a duration such as 1m30s":                                           {SoftGrace: one("memory.available", "90")},
		"--eviction-soft-grace-period: invalid eviction grace period specified: memory.available=-1s, must be a positive value":     {SoftGrace: one("memory.available", "-1s")},
		"--eviction-minimum-reclaim: eviction percentage minimum reclaim nodefs.available must be positive: 0%":                     {MinimumReclaim: one("nodefs.available", "0%")},
		"--eviction-minimum-reclaim: negative eviction minimum reclaim specified for nodefs.available: -1":                          {MinimumReclaim: one("nodefs.available", "-1")},
		"--eviction-minimum-reclaim: nodefs.available=some: not a quantity such as 1Gi, nor a percentage such as 5%":                {MinimumReclaim: one("nodefs.available", "some")},
		"--eviction-minimum-reclaim: unsupported eviction signal disk; use one of memory.available, nodefs.available, nodefs.inode": {Hard: m, MinimumReclaim: one("disk", "1")},
	} {
		if got, err := ParseThresholds(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %s", bad, got, err, want)
		}
	}
}

func TestKept(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourceEphemeralStorage: resource.MustParse("1000"), v1.ResourceCPU: resource.MustParse("2")}
	kept := Kept(DefaultThresholds(), capacity)
	if m, d := kept[v1.ResourceMemory], kept[v1.ResourceEphemeralStorage]; len(kept) != 2 || m.String() != "100Mi" || d.Value() != 100 {
		t.Errorf("kept %v", kept)
	}
	if kept := Kept([]Threshold{{Signal: MemoryAvailable, Amount: Amount{Percent: 0.5}, Grace: 1}}, capacity); len(kept) != 0 {
		t.Errorf("kept for a soft threshold: %v", kept)
	}
	if kept := Kept(nil, capacity); len(kept) != 0 {
		t.Errorf("kept without thresholds: %v", kept)
	}
}
