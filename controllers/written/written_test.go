package written

import "testing"

type store struct{ at string }

func (s *store) LastStoreSyncResourceVersion() string { return s.at }

// What was written is shown when every store has come to the last of it, in whatever order it was noted.
func TestVersions(t *testing.T) {
	claims, volumes := &store{}, &store{}
	v := Versions{}
	expect := func(what string, want bool) {
		t.Helper()
		if got := v.Shown(); got != want {
			t.Errorf("%s: shown is %v", what, got)
		}
	}
	expect("nothing was written", true)
	v.Add(claims, "9")
	expect("the store has nothing", false)
	v.Add(claims, "12")
	v.Add(claims, "10")
	claims.at = "9"
	expect("the store has the first", false)
	claims.at = "11"
	expect("the store has all but the last", false)
	claims.at = "12"
	expect("the store has all", true)
	v.Add(volumes, "13")
	claims.at = "100"
	expect("another store is behind", false)
	volumes.at = "13"
	expect("both have all", true)
	claims.at = "not a number"
	expect("what cannot be compared holds nobody up", true)
}
