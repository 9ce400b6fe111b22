package cidrs

import (
	"encoding/json"
	"net/netip"
	"testing"
)

func TestTextOfLists(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"10.244.0.0/16":               "10.244.0.0/16",
		"10.244.3.0/16, fd00:1::5/48": "10.244.0.0/16,fd00:1::/48",
		"fd00::/56,10.0.0.0/8":        "fd00::/56,10.0.0.0/8",
	} {
		got, err := Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("%q is read as %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"10.244.0.0", "10.0.0.0/8,10.1.0.0/16", "fd00::/64,fd01::/64", "10.0.0.0/8,fd00::/48,fd01::/48", "10.0.0.0/8,", "::ffff:10.0.0.0/104"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// TestOneNetworkInJSON: files of clusters that have one network were written as that network alone.
func TestOneNetworkInJSON(t *testing.T) {
	type file struct {
		Cluster List `json:"cluster,omitzero"`
	}
	var f file
	if err := json.Unmarshal([]byte(`{"cluster":"10.244.0.0/16"}`), &f); err != nil || f.Cluster.First() != netip.MustParsePrefix("10.244.0.0/16") {
		t.Errorf("read as %v, %v", f.Cluster, err)
	}
	if b, err := json.Marshal(f); err != nil || string(b) != `{"cluster":"10.244.0.0/16"}` {
		t.Errorf("written as %s, %v", b, err)
	}
	if b, err := json.Marshal(file{}); err != nil || string(b) != `{}` {
		t.Errorf("none is written as %s, %v", b, err)
	}
}

func TestNetworksOfLists(t *testing.T) {
	l, err := Parse("10.244.0.0/16,fd00::/48")
	if err != nil {
		t.Fatal(err)
	}
	if l.OfFamily(true).String() != "fd00::/48" || l.OfFamily(false) != l.First() || l[:1].OfFamily(true).IsValid() {
		t.Error("a network of the wrong family")
	}
	if !l.Overlaps(netip.MustParsePrefix("fd00:0:0:7::/64")) || l.Overlaps(netip.MustParsePrefix("fd01::/64"), netip.MustParsePrefix("10.0.0.0/16")) {
		t.Error("wrong about what overlaps")
	}
	if (List{}).First().IsValid() {
		t.Error("an empty list has a first network")
	}
}
