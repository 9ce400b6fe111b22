package evict

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestParseThresholds(t *testing.T) {
	got, err := ParseThresholds(map[string]string{"pid.available": "10%", "memory.available": "1Gi", "nodefs.available": "0%", "imagefs.available": "2.5%", "imagefs.inodesFree": "100%"})
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
	if got, err := ParseThresholds(map[string]string{}); err != nil || got == nil || len(got) != 0 {
		t.Errorf("no thresholds: %v, %v", got, err)
	}
	for signal, value := range map[string]string{"memory": "1Gi", "memory.available": "-1", "nodefs.available": "101%", "imagefs.available": "NaN%", "pid.available": "many", "nodefs.inodesFree": "0"} {
		if got, err := ParseThresholds(map[string]string{signal: value}); err == nil || !strings.Contains(err.Error(), signal) {
			t.Errorf("%s<%s: %v, %v", signal, value, got, err)
		}
	}
}

func TestKept(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourceEphemeralStorage: resource.MustParse("1000"), v1.ResourceCPU: resource.MustParse("2")}
	kept := Kept(DefaultThresholds(), capacity)
	if m, d := kept[v1.ResourceMemory], kept[v1.ResourceEphemeralStorage]; len(kept) != 2 || m.String() != "100Mi" || d.Value() != 100 {
		t.Errorf("kept %v", kept)
	}
	if kept := Kept(nil, capacity); len(kept) != 0 {
		t.Errorf("kept without thresholds: %v", kept)
	}
}
